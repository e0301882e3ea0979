// What a template may use of the visitor's machine: steps of work and characters of text. A template is a stranger's program,
// which may loop for ever or fill the memory; one that uses its budget up ends in an error. Knows numbers alone.

/** What Python or Jinja2 would raise while a template runs. */
export class TemplateError extends Error {}

/** A conversation that fills a context of 128,000 tokens takes a few hundred thousand. */
const MOST_STEPS = 3_000_000;
/** Of all texts that are made on the way to the prompt, which itself is among them. */
const MOST_CHARACTERS = 2 ** 27;
/** A prompt, or a text on the way to it, of more characters fits no context, and memory only just. */
export const MOST_CHARACTERS_AT_ONCE = 2 ** 24;

let steps = 0;
let characters = 0;
let most = { steps: MOST_STEPS, characters: MOST_CHARACTERS };

/** For what is run from here on. Templates run to their end before anything else does, so one budget at a time is enough. */
export function startBudget(limits = { steps: MOST_STEPS, characters: MOST_CHARACTERS }): void {
  steps = 0;
  characters = 0;
  most = limits;
}

/** @throws TemplateError when the template has worked long enough */
export function spend(count = 1): void {
  steps += count;
  if (steps > most.steps) throw new TemplateError(`it takes more than ${most.steps} steps`);
}

/** Before a text of this length is made. @throws TemplateError */
export function spendText(length: number): void {
  if (length > MOST_CHARACTERS_AT_ONCE)
    throw new TemplateError(`it makes ${length} characters of them, more than ${MOST_CHARACTERS_AT_ONCE}`);
  characters += length;
  if (characters > most.characters) throw new TemplateError(`it makes more than ${most.characters} characters of them on the way`);
}

/** Before a list of this length is made. @throws TemplateError */
export function spendItems(count: number): void {
  spend(count);
}
