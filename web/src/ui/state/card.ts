// Personas as files: character cards of version 2 (https://github.com/malfoyslastname/character-card-spec-v2), which other programs
// read and write too, in JSON or in a picture. Knows no storage and no document.

import { t } from "../texts";
import { readChoices } from "./choices";
import type { Persona } from "./persona";
import { readPicture } from "./picture";
import { isPng, pngTexts } from "./png";

type Fields = Partial<Record<string, unknown>>;
const isObject = (value: unknown): value is Fields => typeof value === "object" && value !== null && !Array.isArray(value);
const text = (value: unknown): string => (typeof value === "string" ? value.trim() : "");

const LONGEST_NAME = 80;

/** A persona as a character card, in which what the format has no field for is an extension. */
export function cardOf({ name, picture, greeting, choices }: Persona): string {
  const data = {
    ...{ name, description: "", personality: "", scenario: "", first_mes: greeting, mes_example: "" },
    ...{ creator_notes: "", system_prompt: choices.systemPrompt, post_history_instructions: "", alternate_greetings: [] },
    ...{ tags: [], creator: "", character_version: "", extensions: { wisp: { picture, choices } } },
  };
  return `${JSON.stringify({ spec: "chara_card_v2", spec_version: "2.0", data }, null, 1)}\n`;
}

/** The card of a file: JSON, or a PNG picture that carries it. @throws Error that names the file and what is wrong with it */
export function readCard(bytes: Uint8Array, file: string): Omit<Persona, "id"> {
  const refuse = (what: string): never => {
    throw new Error(t("card.refused", { name: file, why: what }));
  };
  let json: string;
  try {
    json = isPng(bytes) ? cardInPng(bytes) : new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return refuse(t("fault.utf8"));
  }
  if (json === "") return refuse(t("fault.no-chara"));
  let found: unknown;
  try {
    found = JSON.parse(json);
  } catch {
    return refuse(t("fault.json"));
  }
  // Version 1 has no envelope.
  const data = isObject(found) && isObject(found["data"]) ? found["data"] : found;
  if (!isObject(data) || text(data["name"]) === "") return refuse(t("fault.no-name"));
  return personaOf(data);
}

function cardInPng(bytes: Uint8Array): string {
  const encoded = pngTexts(bytes).get("chara") ?? "";
  return new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0)));
}

function personaOf(data: Fields): Omit<Persona, "id"> {
  const name = text(data["name"]).slice(0, LONGEST_NAME);
  /** `{{char}}` and `{{user}}` stand for the two who talk. */
  const filled = (field: string) =>
    text(data[field])
      .replaceAll(/\{\{char\}\}|<BOT>/gi, () => name)
      .replaceAll(/\{\{user\}\}|<USER>/gi, () => "the user")
      .replaceAll(/\{\{original\}\}/gi, "")
      .trim();
  const titled = (title: string, field: string) => (filled(field) === "" ? "" : `${title}:\n${filled(field)}`);
  const own = isObject(data["extensions"]) && isObject(data["extensions"]["wisp"]) ? data["extensions"]["wisp"] : {};
  const prompt = [
    ...[filled("system_prompt"), titled(`About ${name}`, "description"), titled(`${name}'s personality`, "personality")],
    ...[titled("Scenario", "scenario"), titled(`How ${name} talks`, "mes_example"), filled("post_history_instructions")],
  ];
  return {
    name,
    picture: readPicture(own["picture"]),
    greeting: filled("first_mes"),
    choices: { ...readChoices(own["choices"]), systemPrompt: prompt.filter((part) => part !== "").join("\n\n") },
  };
}
