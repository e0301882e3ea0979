// How one message of the conversation looks, and what can be done with it.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { FinishReason, ToolCall, Usage } from "../../api/types";
import { latency, speed } from "../format";
import { MarkdownView } from "../markdown";
import type { AutoScroll } from "../scroll";
import { chat, history } from "../state/app";
import type { Message } from "../state/conversation";
import type { Live } from "../state/live";
import { pieces, t } from "../texts";
import { dressCode } from "./code";
import { Action, CopyAction, FormEnd } from "./parts";

/** ‹ 2/3 ›: the other questions, or the other answers, that stand beside this one. */
function Branches({ message }: { message: Message }) {
  const branches = history.branches(message);
  if (branches.length < 2) return null;
  const at = branches.findIndex(({ id }) => id === message.id);
  const go = (step: number) => () => {
    const other = branches[at + step];
    if (other !== undefined) history.choose(other.id);
  };
  const busy = chat.busy.value;
  return (
    <span class="branches" data-testid="branches" role="group" aria-label={t("message.versions")}>
      <Action icon="back" label={t("message.previous")} testId="previous-branch" bare disabled={busy || at === 0} onClick={go(-1)} />
      <span class="number" data-testid="branch">
        {at + 1}/{branches.length}
      </span>
      <Action
        icon="next"
        label={t("message.next")}
        testId="next-branch"
        bare
        disabled={busy || at === branches.length - 1}
        onClick={go(1)}
      />
    </span>
  );
}

function Edit({ message, onEnd }: { message: Message; onEnd: () => void }) {
  const box = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    box.current?.focus();
    box.current?.setSelectionRange(message.content.length, message.content.length);
  }, []);
  const save = () => {
    const text = box.current?.value ?? "";
    onEnd();
    chat.edit(message, text);
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key === "Escape") onEnd();
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    save();
  };
  return (
    <form
      class="edit"
      data-testid="edit"
      onSubmit={(event) => {
        event.preventDefault();
        save();
      }}
    >
      <textarea aria-label={t("message.yours")} dir="auto" data-testid="edit-text" ref={box} rows={3} onKeyDown={onKey}>
        {message.content}
      </textarea>
      <FormEnd label={t("composer.send")} testId="save-edit" onCancel={onEnd} />
    </form>
  );
}

export function Question({ message, forgotten }: { message: Message; forgotten: boolean }) {
  const [editing, setEditing] = useState(false);
  if (editing) return <Edit message={message} onEnd={() => setEditing(false)} />;
  return (
    <div class={`turn${forgotten ? " forgotten" : ""}`}>
      <article class="message user" data-testid="message-user" aria-label={t("message.you")}>
        <p dir="auto">{message.content}</p>
      </article>
      <div class="turn-actions">
        <Branches message={message} />
        <Action
          icon="edit"
          label={t("edit")}
          testId="edit-message"
          bare
          disabled={chat.busy.value || !chat.ready.value}
          onClick={() => setEditing(true)}
        />
        <CopyAction text={() => message.content} testId="copy-message" bare />
      </div>
    </div>
  );
}

/** Thoughts are plain text: they are nobody's to format. In sight while they grow, then folded. */
function Thoughts({ message, live, onGrow }: { message: Message; live: Live | null; onGrow: () => void }) {
  const box = useRef<HTMLDetailsElement>(null);
  const text = useRef<HTMLParagraphElement>(null);
  const [growing, setGrowing] = useState(live !== null && live.text === "");
  useLayoutEffect(() => {
    if (live === null) {
      setGrowing(false);
      return;
    }
    text.current?.replaceChildren(live.thoughts);
    return live.listen((piece, thought) => {
      if (thought) {
        text.current?.append(piece);
        onGrow();
      } else {
        setGrowing(false);
      }
    });
  }, [live]);
  useLayoutEffect(() => {
    if (box.current !== null) box.current.open = growing;
  }, [growing]);
  useLayoutEffect(() => {
    if (live === null) text.current?.replaceChildren(message.thoughts ?? "");
  }, [live, message.thoughts]);
  const seconds = live?.thoughtSeconds ?? message.thoughtSeconds;
  const title = growing
    ? t("message.thinking")
    : seconds === undefined
      ? t("message.thoughts")
      : t("message.thought-for", { time: latency(seconds) });
  return (
    <details class="thoughts" data-testid="answer-thoughts" ref={box}>
      <summary>{title}</summary>
      <p dir="auto" ref={text} />
    </details>
  );
}

/** The text, appended to what is shown: a piece touches few nodes however long the answer is. */
function Prose({ message, live, onGrow }: { message: Message; live: Live | null; onGrow: () => void }) {
  const root = useRef<HTMLDivElement>(null);
  const view = useRef<MarkdownView | null>(null);
  const complete = useRef(false);
  const text = live?.text ?? message.content;
  useLayoutEffect(() => {
    if (root.current === null) return;
    if (view.current === null || !text.startsWith(view.current.text)) {
      root.current.replaceChildren();
      view.current = new MarkdownView(root.current, () => {
        onGrow();
        if (complete.current && root.current !== null) dressCode(root.current);
      });
    }
    const { current } = view;
    if (text.length > current.text.length) current.append(text.slice(current.text.length));
    complete.current = live === null;
    if (current.text !== "") current.flush();
    return live?.listen((piece, thought) => {
      if (!thought) current.append(piece);
    });
  }, [live, live === null ? message.content : ""]);
  return <div class="prose" dir="auto" data-testid="answer-text" ref={root} />;
}

/** A call of a tool, which nobody here makes. */
function ToolCallView({ call }: { call: ToolCall }) {
  return (
    <details class="thoughts" data-testid="tool-call">
      <summary>{pieces("message.calls", { name: <code>{call.function.name}</code> })}</summary>
      <p dir="auto">{call.function.arguments}</p>
    </details>
  );
}

interface AnswerProps {
  message: Message;
  /** While it is being written. */
  live: Live | null;
  last: boolean;
  forgotten: boolean;
  scroll: AutoScroll;
}

export function Answer({ message, live, last, forgotten, scroll }: AnswerProps) {
  const onGrow = () => scroll.follow();
  const thinks = useThinks(message, live);
  const note = live === null ? (message.problem ?? noteFor(message)) : null;
  const cut = last && live === null && message.content !== "" && message.reason !== "stop" && message.reason !== "tool_calls";
  const { usage = null } = message;
  return (
    <article
      class={`message answer${live === null ? "" : " streaming"}${forgotten ? " forgotten" : ""}`}
      data-testid="message-answer"
      aria-label={t("message.answer")}
      aria-busy={live !== null}
    >
      {thinks ? <Thoughts message={message} live={live} onGrow={onGrow} /> : null}
      <Prose message={message} live={live} onGrow={onGrow} />
      {message.toolCalls?.map((call) => (
        <ToolCallView key={call.id} call={call} />
      ))}
      {note === null ? null : (
        <p class={message.problem === undefined ? "note" : "note bad"} data-testid="answer-note">
          {note}
        </p>
      )}
      {live !== null ? null : (
        <footer class="answer-foot">
          <div class="answer-actions">
            <Branches message={message} />
            <CopyAction text={() => message.content} testId="copy" />
            {last && message.parent !== null ? (
              <Action icon="again" label={t("message.regenerate")} testId="regenerate" onClick={() => chat.regenerate(message)} />
            ) : null}
            {cut ? <Action icon="next" label={t("message.continue")} testId="continue" onClick={() => chat.continue(message)} /> : null}
          </div>
          {usage === null ? null : <Stats usage={usage} />}
        </footer>
      )}
    </article>
  );
}

/** Whether there are thoughts; from the first one on. */
function useThinks(message: Message, live: Live | null): boolean {
  const [thinks, setThinks] = useState((live?.thoughts ?? message.thoughts ?? "") !== "");
  useLayoutEffect(() => {
    if (thinks || live === null) return;
    return live.listen((_, thought) => {
      if (thought) setThinks(true);
    });
  }, [live, thinks]);
  return thinks || (message.thoughts ?? "") !== "";
}

const NOTES: Record<FinishReason, "message.stopped" | "message.cut" | null> = {
  abort: "message.stopped",
  length: "message.cut",
  stop: null,
  tool_calls: null,
};

function noteFor({ reason = null, content, toolCalls = [] }: Message): string | null {
  if (reason === null) return t("message.interrupted");
  if (reason === "abort" && content === "") return t("message.no-word");
  const note = NOTES[reason];
  if (note !== null) return t(note);
  return content === "" && toolCalls.length === 0 ? t("message.nothing") : null;
}

function Stats({ usage: { prompt_tokens: prompt, completion_tokens: completion, extra } }: { usage: Usage }) {
  const reused = extra.reused_tokens;
  const title = reused > 0 ? t("stats.prompt-reused", { count: reused }) : t("stats.prompt-title");
  return (
    <dl class="stats number" data-testid="answer-stats">
      <div>
        <dt>{t("stats.prompt")}</dt>{" "}
        <dd data-testid="prompt-tokens" title={title}>
          {t("tokens", { n: prompt })}
        </dd>{" "}
        <dd data-testid="prefill-rate" title={t("stats.prefill-title")}>
          {t("tokens-per-second", { rate: speed(extra.prefill_tokens_per_second) })}
        </dd>
      </div>
      <div>
        <dt>{t("stats.first-token")}</dt> <dd data-testid="first-token">{latency(extra.time_to_first_token_s)}</dd>
      </div>
      <div>
        <dt>{t("stats.answer")}</dt> <dd data-testid="answer-tokens">{t("tokens", { n: completion })}</dd>{" "}
        <dd data-testid="decode-rate">{t("tokens-per-second", { rate: speed(extra.decode_tokens_per_second) })}</dd>
      </div>
    </dl>
  );
}
