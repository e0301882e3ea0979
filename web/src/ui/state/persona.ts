// A persona: who the model is to be in a conversation. Knows no storage and no document.

import { t } from "../texts";
import { type Choices, NOTHING_CHOSEN } from "./choices";

export interface Persona {
  id: string;
  name: string;
  /** Some letters, such as an emoji, an icon of the page's own, or a picture as a data: address. */
  picture: string;
  /** What it says first; empty for nothing. */
  greeting: string;
  choices: Choices;
}

export const NEW_PERSONA: Omit<Persona, "id"> = { name: "", picture: "🙂", greeting: "", choices: NOTHING_CHOSEN };

/** Those that are there from the start; they cannot be changed, only copied. What the model reads is English, which models know best. */
export const shipped = (): Persona[] => [
  {
    id: "wisp-tutor",
    name: t("tutor.name"),
    picture: "icon:book",
    greeting: t("tutor.greeting"),
    choices: {
      ...NOTHING_CHOSEN,
      systemPrompt:
        "You are a patient tutor. Explain one idea at a time in plain words, with a small example. End with one short question that " +
        "lets the learner try it. When an answer of theirs is wrong, say which step went wrong and give a hint, not the solution.",
    },
  },
  {
    id: "wisp-editor",
    name: t("editor.name"),
    picture: "icon:edit",
    greeting: t("editor.greeting"),
    choices: {
      ...NOTHING_CHOSEN,
      sampling: { temperature: 0.3 },
      systemPrompt:
        "You are a careful editor. Return the text you are given, corrected and tightened: keep its meaning, its language and the " +
        "author's voice. After it, list the changes that matter, at most three, with a reason each.",
    },
  },
  {
    id: "wisp-storyteller",
    name: t("storyteller.name"),
    picture: "icon:story",
    greeting: t("storyteller.greeting"),
    choices: {
      ...NOTHING_CHOSEN,
      sampling: { temperature: 0.9 },
      systemPrompt:
        "You tell a story together with the reader, a short paragraph a turn. Use concrete things that can be seen and heard. End " +
        "each turn where the reader can decide what happens next, and keep what they decide.",
    },
  },
];
