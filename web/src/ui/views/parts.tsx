// Small parts that many views are made of.

import { type ComponentChildren, Fragment } from "preact";
import { useState } from "preact/hooks";
import { chat } from "../state/app";
import type { Persona } from "../state/persona";
import { t } from "../texts";
import { personasOpen } from "./places";

/** An icon of the template's sprite. */
export function Icon({ name, kind = "" }: { name: string; kind?: string }) {
  return (
    <svg class={`icon ${kind}`} aria-hidden="true">
      <use href={`#icon-${name}`} />
    </svg>
  );
}

interface ActionProps {
  icon: string;
  label: string;
  testId: string;
  onClick: () => void;
  /** Only the icon is seen. */
  bare?: boolean;
  disabled?: boolean;
}

/** A small button beside what it acts on. */
export function Action({ icon, label, testId, onClick, bare = false, disabled = false }: ActionProps) {
  return (
    <button
      type="button"
      class="quiet small"
      data-testid={testId}
      onClick={onClick}
      disabled={disabled}
      {...(bare ? { "aria-label": label, title: label } : {})}
    >
      <Icon name={icon} />
      {bare ? null : <span>{label}</span>}
    </button>
  );
}

const COPIED_MS = 1600;

/** Copies a text, and says whether it could. */
export function CopyAction({ text, testId, bare = false }: { text: () => string; testId: string; bare?: boolean }) {
  const [result, setResult] = useState<"copy" | "copied" | "copy.denied">("copy");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text());
      setResult("copied");
    } catch {
      setResult("copy.denied");
    }
    setTimeout(() => setResult("copy"), COPIED_MS);
  };
  return <Action icon={result === "copied" ? "check" : "copy"} label={t(result)} testId={testId} bare={bare} onClick={() => void copy()} />;
}

/** How a form ends: with a button that does it, and one that does not. */
export function FormEnd({ label, testId, onCancel }: { label: string; testId: string; onCancel: () => void }) {
  return (
    <div class="notice-actions">
      <button type="submit" class="primary" data-testid={testId}>
        {label}
      </button>
      <button type="button" class="plain" onClick={onCancel}>
        {t("cancel")}
      </button>
    </div>
  );
}

/** Keys that are pressed together. */
export function Keys({ keys }: { keys: readonly string[] }) {
  return (
    <>
      {keys.map((key, i) => (
        <Fragment key={key}>
          {i === 0 ? null : "+"}
          <kbd>{key}</kbd>
        </Fragment>
      ))}
    </>
  );
}

export type Row = [name: string, value: ComponentChildren];

/** A list of names and values; an empty value leaves its row out. */
export function Facts({ rows }: { rows: readonly Row[] }) {
  return (
    <dl class="facts">
      {rows
        .filter(([, value]) => value !== undefined && value !== "")
        .map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
    </dl>
  );
}

/** An image, or letters as one. */
export function Picture({ picture, large = false }: { picture: string; large?: boolean }) {
  const kind = `picture${large ? " large" : ""}`;
  if (picture.startsWith("data:")) return <img class={kind} src={picture} alt="" />;
  if (picture.startsWith("icon:"))
    return (
      <span class={`${kind} drawn`}>
        <Icon name={picture.slice("icon:".length)} />
      </span>
    );
  return (
    <span class={kind} aria-hidden="true">
      {picture === "" ? "🙂" : picture}
    </span>
  );
}

/** A new chat with this persona. */
export function begin(persona: Persona): void {
  personasOpen.value = false;
  void chat.newChat(persona);
}
