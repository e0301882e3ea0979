// Personas as cards: choose, make, change, share as a file, read from one.

import { useSignal } from "@preact/signals";
import { useRef, useState } from "preact/hooks";
import { chat, notices, personas } from "../state/app";
import { CONTROLS, type SamplingName, withValue } from "../state/choices";
import { cardOf, readCard } from "../state/card";
import { NEW_PERSONA, type Persona } from "../state/persona";
import { readPicture } from "../state/picture";
import { t } from "../texts";
import { Action, begin, FormEnd, Picture } from "./parts";
import { smallPicture } from "./picture";
import { download, fileName } from "./transfer";

async function importCards(files: readonly File[]): Promise<void> {
  for (const file of files) {
    try {
      const card = readCard(new Uint8Array(await file.arrayBuffer()), file.name);
      // A card that names no picture is one, where it is a picture.
      const picture = card.picture === "" ? await smallPicture(file) : card.picture;
      await personas.save({ ...card, picture, id: crypto.randomUUID() });
      notices.announce(t("persona.here", { name: card.name }));
    } catch (error) {
      notices.pass({ text: error instanceof Error ? error.message : String(error) });
    }
  }
}

function remove(persona: Persona): void {
  void personas.remove(persona.id);
  notices.pass({ text: t("deleted", { name: persona.name }), undo: () => void personas.save(persona) });
}

interface CardProps {
  persona: Persona;
  onEdit: (persona: Persona) => void;
}

function Card({ persona, onEdit }: CardProps) {
  const ships = personas.shipped.value.includes(persona);
  const copy = () => onEdit({ ...persona, id: crypto.randomUUID(), name: t("persona.copy-name", { name: persona.name }) });
  return (
    <li class="card" data-testid="persona-card">
      <Picture picture={persona.picture} />
      <strong dir="auto">{persona.name}</strong>
      <p dir="auto">{persona.greeting === "" ? persona.choices.systemPrompt : persona.greeting}</p>
      <div class="card-actions">
        <Action icon="plus" label={t("persona.chat")} testId="persona-chat" disabled={!chat.ready.value} onClick={() => begin(persona)} />
        {ships ? (
          <Action icon="copy" label={t("copy")} testId="persona-copy" onClick={copy} />
        ) : (
          <Action icon="edit" label={t("edit")} testId="persona-edit" onClick={() => onEdit(persona)} />
        )}
        <Action
          icon="save"
          label={t("export")}
          testId="persona-export"
          onClick={() => download(`${fileName(persona.name)}.json`, cardOf(persona), "application/json")}
        />
        {ships ? null : <Action icon="close" label={t("delete")} testId="persona-delete" onClick={() => remove(persona)} />}
      </div>
    </li>
  );
}

function PictureField({ picture, onChange }: { picture: string; onChange: (picture: string) => void }) {
  const file = useRef<HTMLInputElement>(null);
  const isImage = /^(?:data|icon):/.test(picture);
  return (
    <div class="field">
      <label for="persona-picture">{t("persona.picture")}</label>
      <span class="picture-row">
        <Picture picture={picture} />
        <input
          id="persona-picture"
          type="text"
          data-testid="persona-picture"
          placeholder={t("persona.emoji")}
          value={isImage ? "" : picture}
          onInput={({ currentTarget }) => onChange(readPicture(currentTarget.value))}
        />
        <Action icon="up" label={t("persona.image")} testId="persona-image" onClick={() => file.current?.click()} />
      </span>
      <input
        type="file"
        hidden
        accept="image/png,image/jpeg,image/webp"
        aria-label={t("persona.an-image")}
        ref={file}
        onChange={({ currentTarget }) => {
          const [image] = currentTarget.files ?? [];
          if (image !== undefined) void smallPicture(image).then((made) => made !== "" && onChange(made));
        }}
      />
    </div>
  );
}

/** The two that make a character; the rest is set in the conversation. */
const SAMPLED: readonly SamplingName[] = ["temperature", "top_p"];

function Form({ persona, onEnd }: { persona: Persona; onEnd: () => void }) {
  const [draft, setDraft] = useState(persona);
  const { choices } = draft;
  const setSampling = (name: SamplingName, input: HTMLInputElement) => {
    const value = input.value !== "" && input.validity.valid ? input.valueAsNumber : undefined;
    setDraft({ ...draft, choices: { ...choices, sampling: withValue(choices.sampling, name, value) } });
  };
  const save = (event: Event) => {
    event.preventDefault();
    if (draft.name.trim() === "") return;
    void personas.save({ ...draft, name: draft.name.trim() });
    onEnd();
  };
  return (
    <form class="drawer-body" data-testid="persona-form" autocomplete="off" onSubmit={save}>
      <label class="field">
        {t("persona.name")}
        <input
          type="text"
          required
          maxLength={80}
          dir="auto"
          data-testid="persona-name"
          value={draft.name}
          onInput={({ currentTarget: { value: name } }) => setDraft({ ...draft, name })}
        />
      </label>
      <PictureField picture={draft.picture} onChange={(picture) => setDraft({ ...draft, picture })} />
      <label class="field">
        {t("persona.system")}
        <textarea
          rows={6}
          dir="auto"
          data-testid="persona-prompt"
          value={choices.systemPrompt}
          onInput={({ currentTarget: { value: systemPrompt } }) => setDraft({ ...draft, choices: { ...choices, systemPrompt } })}
        />
      </label>
      <label class="field">
        {t("persona.greeting")}
        <textarea
          rows={2}
          dir="auto"
          data-testid="persona-greeting"
          value={draft.greeting}
          onInput={({ currentTarget: { value: greeting } }) => setDraft({ ...draft, greeting })}
        />
        <small class="muted">{t("persona.greeting-help")}</small>
      </label>
      {CONTROLS.filter(({ name }) => SAMPLED.includes(name)).map(({ name, min, max, step }) => (
        <label key={name} class="field">
          {t(`sampling.${name}`)}
          <input
            type="number"
            min={min}
            max={max}
            step={step}
            placeholder={t("persona.own")}
            data-testid={`persona-${name}`}
            value={choices.sampling[name] ?? ""}
            onInput={({ currentTarget }) => setSampling(name, currentTarget)}
          />
        </label>
      ))}
      <FormEnd label={t("save")} testId="persona-save" onCancel={onEnd} />
    </form>
  );
}

export function Personas() {
  const editing = useSignal<Persona | null>(null);
  const file = useRef<HTMLInputElement>(null);
  const { value: persona } = editing;
  return (
    <>
      {persona !== null ? (
        <Form key={persona.id} persona={persona} onEnd={() => (editing.value = null)} />
      ) : (
        <div class="drawer-body">
          <ul class="cards">
            {personas.all.value.map((each) => (
              <Card key={each.id} persona={each} onEdit={(edited) => (editing.value = edited)} />
            ))}
          </ul>
          <div class="notice-actions">
            <button
              type="button"
              class="plain"
              data-testid="persona-new"
              onClick={() => (editing.value = { ...NEW_PERSONA, id: crypto.randomUUID() })}
            >
              {t("persona.new")}
            </button>
            <button type="button" class="plain" data-testid="persona-import" onClick={() => file.current?.click()}>
              {t("persona.import")}
            </button>
          </div>
          <input
            type="file"
            hidden
            multiple
            accept="application/json,image/png,.json,.png"
            aria-label={t("persona.file")}
            data-testid="persona-file"
            ref={file}
            onChange={({ currentTarget }) => {
              void importCards([...(currentTarget.files ?? [])]);
              currentTarget.value = "";
            }}
          />
        </div>
      )}
    </>
  );
}
