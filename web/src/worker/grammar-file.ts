// Where grammar.js lies: beside the worker. A file of its own, so that what runs unbuilt may have it from elsewhere.

type Grammars = typeof import("../text/grammar/engine");

export const loadGrammars = () =>
  import(
    /* @vite-ignore */ /* turbopackIgnore: true */ new URL(/* @vite-ignore */ "./grammar.js", import.meta.url).href
  ) as Promise<Grammars>;
