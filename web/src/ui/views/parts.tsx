// Small parts that many views are made of.

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { chat } from "../state/app";
import type { Persona } from "../state/persona";
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
  const [result, setResult] = useState<"Copy" | "Copied" | "Not allowed here">("Copy");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text());
      setResult("Copied");
    } catch {
      setResult("Not allowed here");
    }
    setTimeout(() => setResult("Copy"), COPIED_MS);
  };
  return <Action icon={result === "Copied" ? "check" : "copy"} label={result} testId={testId} bare={bare} onClick={() => void copy()} />;
}

/** A list of names and values; an empty value leaves its row out. */
export function Facts({ rows }: { rows: [string, ComponentChildren][] }) {
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
