// The types of where models are: artifacts, and those that a browser keeps for a site. No code.

/** Where an artifact lies: its directory's address; or a folder of the visitor's, as a handle or as a list of its files. */
export type ArtifactSource = string | URL | FileSystemDirectoryHandle | ArrayLike<File>;

/** A model that is kept, whole or in part; a newer version that has begun to come stands beside the one before it. */
export interface StoredModel {
  /** The artifact's absolute address, which createEngine() takes. */
  url: string;
  /** Undefined where this version of the engine cannot read its model.json. */
  model: string | undefined;
  /** `complete`: a load, a prefetch or an import of it has ended well. */
  state: "complete" | "partial";
  /** Of its files that are kept; and of those that no other model or version has, which is what delete() frees. */
  bytes: number;
  ownBytes: number;
  /** Variants that are kept with all that they need. */
  variants: string[];
}

/** Of the files that a load needs here. */
export interface ModelSize {
  totalBytes: number;
  keptBytes: number;
  /** What is to be downloaded yet. */
  missingBytes: number;
}

export interface StorageProgress {
  /** The file at hand; null before the first one is known. */
  file: string | null;
  filesDone: number;
  files: number;
  /** Of `totalBytes`; those that were kept already are among them. */
  doneBytes: number;
  totalBytes: number;
  /** Why nothing comes at the moment, in plain words; null otherwise. */
  waiting: string | null;
}

export interface StorageOptions {
  onProgress?: (progress: StorageProgress) => void;
  signal?: AbortSignal;
}

export interface DownloadOptions {
  /**
   * `auto`: what a load takes here, and the CPU's variant in case the GPU fails; a variant's name; or `all`, for devices that
   * are not known.
   */
  backend?: string;
  /** As createEngine() has them. */
  headers?: Record<string, string>;
  fetch?: (url: string, init: RequestInit) => Promise<Response>;
}

export interface Verification {
  checkedFiles: number;
  checkedBytes: number;
  /** Files that were not what model.json says; they are gone. */
  removed: { url: string; file: string }[];
}

export interface StorageEstimate {
  /** What the site uses of what it may, in bytes; undefined where the browser does not say. */
  usage: number | undefined;
  quota: number | undefined;
  /** The browser deletes nothing by itself. */
  persisted: boolean;
}

/**
 * The models that this browser keeps for the page's site, those of other tabs and of earlier versions too. Addresses are as
 * createEngine() takes them. No method starts a model, and none needs a GPU.
 */
export interface Models {
  list(): Promise<StoredModel[]>;
  /** Whether a load needs no network. @param options backend as for createEngine() */
  has(url: string | URL, options?: { backend?: string }): Promise<boolean>;
  /** Reads model.json and the plan, no weights; keeps nothing. */
  size(url: string | URL, options?: DownloadOptions & { signal?: AbortSignal }): Promise<ModelSize>;
  /** Downloads what a load needs that is not there yet. What came whole before it was cancelled stays. */
  prefetch(url: string | URL, options?: DownloadOptions & StorageOptions): Promise<StoredModel>;
  /**
   * Forgets a model and frees what no other one has. Running engines are not concerned.
   * @throws RequestError while a tab loads or downloads it
   */
  delete(url: string | URL): Promise<{ deleted: boolean; freedBytes: number }>;
  /** Hashes what is kept, of one model or of all, and drops what is wrong: the next load or prefetch brings it anew. */
  verify(url?: string | URL, options?: StorageOptions): Promise<Verification>;
  /** A tar file of a model that is kept whole, for another browser or device (prefetch it with `backend: "all"` for that). */
  export(url: string | URL, options?: StorageOptions): Promise<Blob>;
  /** The same as a folder, which `wisp serve` or createEngine() reads. */
  exportTo(folder: FileSystemDirectoryHandle, url: string | URL, options?: StorageOptions): Promise<void>;
  /**
   * Keeps the model of a tar file, a folder or its files as if it had been downloaded from `url`, where nothing need be.
   * All of it or nothing.
   */
  import(source: Exclude<ArtifactSource, string | URL> | Blob, url: string | URL, options?: StorageOptions): Promise<StoredModel>;
  estimate(): Promise<StorageEstimate>;
  /** Asks the browser to delete nothing by itself; some ask the user. @returns whether it agreed */
  persist(): Promise<boolean>;
  /** Hears of changes in any tab, loads included, with the model's address. @returns what ends it */
  onChange(listener: (url: string) => void): () => void;
}
