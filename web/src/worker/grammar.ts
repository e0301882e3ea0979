// A model's grammars: the file that knows them is loaded with the first request that has one.

import type { AnswerFormat, Constraint } from "../api/constraint";
import type { GrammarEngine } from "../text/grammar/engine";
import type { Tokenizer } from "../text/tokenizer";
import { announced } from "../text/work";
import { loadGrammars } from "./grammar-file";
import type { LoadedModel } from "./load/load";

const engines = new WeakMap<LoadedModel, Promise<GrammarEngine>>();

/**
 * @param begun what has come of the format already
 * @param textWork says whose text is worked on: a grammar may take for ever
 * @throws RequestError naming what of the format is not supported, and where it does not begin so
 */
export async function constraintOf(
  model: LoadedModel,
  tokenizer: Tokenizer,
  { format, begun }: { format: AnswerFormat | undefined; begun: string },
  textWork: <T>(make: () => T) => T,
): Promise<Constraint | undefined> {
  if (format === undefined) return undefined;
  const { vocabSize, stopTokenIds } = model.artifact.manifest;
  const known =
    engines.get(model) ?? loadGrammars().then((grammars) => new grammars.GrammarEngine(tokenizer.vocabulary(vocabSize, stopTokenIds)));
  engines.set(model, known);
  known.catch(() => engines.delete(model)); // A file that did not come may come the next time.
  const grammars = await known;
  return textWork(() => announced("grammar", () => grammars.constraint(format, begun)));
}
