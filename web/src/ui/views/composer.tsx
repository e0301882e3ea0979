// The box for the next message, and under it how much of the context the conversation takes.

import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { speed } from "../format";
import type { AutoScroll } from "../scroll";
import { chat, history, notices } from "../state/app";
import { pieces, t } from "../texts";
import { Icon, Keys } from "./parts";

const NEARLY_FULL = 0.85;

function NoticeView() {
  const { value: notice } = notices.notice;
  return (
    <div id="notice" class={notice?.bad === true ? "notice bad" : "notice"} data-testid="notice" role="alert" hidden={notice === null}>
      {notice === null ? null : <p>{notice.text}</p>}
      {notice === null || notice.actions.length === 0 ? null : (
        <div class="notice-actions">
          {notice.actions.map(({ label, run }) => (
            <button
              key={label}
              type="button"
              class="plain"
              onClick={() => {
                notices.hide();
                run();
              }}
            >
              {label}
            </button>
          ))}
        </div>
      )}
    </div>
  );
}

function Meter() {
  const { value: used } = chat.used;
  const { value: capacity } = chat.capacity;
  const { value: rate } = chat.rate;
  const share = Math.min(1, used / capacity);
  return (
    <div
      id="meter"
      class={share >= NEARLY_FULL ? "meter nearly-full" : "meter"}
      data-testid="context-meter"
      role="meter"
      aria-label={t("composer.context")}
      aria-valuemin={0}
      aria-valuemax={capacity}
      aria-valuenow={used}
      aria-valuetext={t("composer.context-used", { used, capacity })}
    >
      <span class="track">
        <span class="fill" style={{ inlineSize: `${100 * share}%` }} />
      </span>
      <span class="number">{t("composer.used", { used, capacity })}</span>
      <span class="number" data-testid="live-rate">
        {rate === null ? "" : t("tokens-per-second", { rate: speed(rate) })}
      </span>
    </div>
  );
}

/** Not on touch screens, where focus opens the keyboard over half of the answer. */
const focusesByItself = () => matchMedia("(pointer: fine)").matches;

export function Composer({ scroll }: { scroll: AutoScroll }) {
  const box = useRef<HTMLTextAreaElement>(null);
  const { value: draft } = chat.draft;
  const { value: busy } = chat.busy;
  const focus = chat.focus.value;
  useLayoutEffect(() => {
    if (box.current === null) return;
    box.current.style.blockSize = "auto";
    box.current.style.blockSize = `${box.current.scrollHeight}px`;
  }, [draft]);
  useEffect(() => {
    if (focusesByItself()) box.current?.focus({ preventScroll: true });
  }, [focus]);
  const onKey = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    chat.submit();
  };
  return (
    <div class="dock">
      <div class="column">
        <button
          type="button"
          id="jump"
          class="jump"
          data-testid="jump"
          title={t("composer.latest")}
          aria-label={t("composer.latest")}
          hidden={!scroll.away.value}
          onClick={() => scroll.toEnd()}
        >
          <Icon name="down" />
        </button>
        <NoticeView />
        <form
          id="composer"
          class="composer"
          data-testid="composer"
          onSubmit={(event) => {
            event.preventDefault();
            chat.submit();
          }}
        >
          <label class="visually-hidden" for="prompt">
            {t("composer.label")}
          </label>
          <textarea
            id="prompt"
            data-testid="prompt"
            rows={1}
            dir="auto"
            placeholder={t("composer.placeholder")}
            autocomplete="off"
            enterkeyhint="send"
            ref={box}
            value={draft}
            onInput={(event) => (chat.draft.value = event.currentTarget.value)}
            onKeyDown={onKey}
          />
          <button
            type="submit"
            id="send"
            class="round"
            data-testid="send"
            title={t("composer.send-key")}
            aria-label={t("composer.send")}
            hidden={busy}
            disabled={draft.trim() === "" || !chat.ready.value}
          >
            <Icon name="send" />
          </button>
          <button
            type="button"
            id="stop"
            class="round"
            data-testid="stop"
            title={t("composer.stop-key")}
            aria-label={t("composer.stop")}
            hidden={!busy}
            onClick={() => chat.stop()}
          >
            <Icon name="stop" />
          </button>
        </form>
        <div class="under">
          <Meter />
          {history.lasts.value === false || history.fault.value !== null ? (
            <span class="muted" data-testid="not-kept">
              {history.fault.value === null ? t("composer.no-storage") : t("composer.storage-fails")}
            </span>
          ) : (
            <span class="hint muted">
              {pieces("composer.hint", {
                enter: <Keys keys={["Enter"]} />,
                break: <Keys keys={["Shift", "Enter"]} />,
                escape: <Keys keys={["Esc"]} />,
              })}
            </span>
          )}
        </div>
      </div>
    </div>
  );
}
