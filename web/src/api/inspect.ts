// What a page may ask of a model's inside. Types only.

export interface Inspector {
  /**
   * One of the artifact's files, `model.json` among them: from this browser where it is kept, else from the network, checked
   * against its hash. @throws RequestError for a name that the artifact does not have
   */
  file(path: string): Promise<Uint8Array<ArrayBuffer>>;
}
