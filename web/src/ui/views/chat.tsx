// The conversation: what was said, and the box for what is said next.

import { useComputed } from "@preact/signals";
import { Fragment } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { AutoScroll } from "../scroll";
import { chat, history, personas } from "../state/app";
import type { Persona } from "../state/persona";
import { t } from "../texts";
import { Composer } from "./composer";
import { Answer, Question } from "./message";
import { begin, Picture } from "./parts";
import { personasOpen } from "./places";

const MOST_OFFERED = 6;

/** Who a new chat can be with. */
function WhoToTalkTo() {
  return (
    <div class="suggestions" role="group" aria-label={t("chat.personas")}>
      {personas.all.value.slice(0, MOST_OFFERED).map((persona) => (
        <button key={persona.id} type="button" class="suggestion persona-chip" data-testid="persona" onClick={() => begin(persona)}>
          <Picture picture={persona.picture} />
          <span dir="auto">{persona.name}</span>
        </button>
      ))}
      <button
        type="button"
        class="suggestion"
        data-testid="open-personas"
        aria-haspopup="dialog"
        onClick={() => (personasOpen.value = true)}
      >
        {t("chat.more-personas")}
      </button>
    </div>
  );
}

function WelcomePersona({ persona: { name, picture, greeting } }: { persona: Persona }) {
  return (
    <section class="welcome" data-testid="welcome">
      <Picture picture={picture} large />
      <h1 dir="auto">{name}</h1>
      {greeting === "" ? null : (
        <p class="lead" dir="auto" data-testid="greeting">
          {greeting}
        </p>
      )}
      <div class="suggestions">
        <button type="button" class="suggestion" data-testid="no-persona" onClick={() => (chat.persona.value = null)}>
          {t("chat.no-persona")}
        </button>
      </div>
    </section>
  );
}

function Welcome() {
  const { value: persona } = chat.persona;
  if (persona !== null) return <WelcomePersona persona={persona} />;
  return (
    <section id="welcome" class="welcome" data-testid="welcome">
      <h1>{t("chat.welcome")}</h1>
      <div id="suggestions" class="suggestions" data-testid="suggestions" role="group" aria-label={t("chat.examples")}>
        {chat.suggestions.value.map((text) => (
          <button key={text} type="button" class="suggestion" data-testid="suggestion" dir="auto" onClick={() => chat.ask(text)}>
            {text}
          </button>
        ))}
      </div>
      <WhoToTalkTo />
    </section>
  );
}

function Log({ scroll }: { scroll: AutoScroll }) {
  const { value: path } = history.path;
  const { value: live } = chat.live;
  const forgotten = path.findIndex(({ id }) => id === history.open.value?.forgotten);
  const openId = history.openId.value;
  useLayoutEffect(() => scroll.toEnd(), [openId]);
  useLayoutEffect(() => {
    if (live !== null) scroll.toEnd();
  }, [live]);
  useLayoutEffect(() => scroll.follow());
  return (
    <div
      id="log"
      class="log"
      data-testid="log"
      role="log"
      aria-live="polite"
      aria-relevant="additions text"
      aria-label={t("chat.log")}
      aria-busy={chat.busy.value}
    >
      {path.map((message, i) => (
        <Fragment key={message.id}>
          {message.role === "user" ? (
            <Question message={message} forgotten={i <= forgotten} />
          ) : (
            <Answer
              message={message}
              live={live?.message.id === message.id ? live : null}
              last={i === path.length - 1}
              forgotten={i <= forgotten}
              scroll={scroll}
            />
          )}
          {i === forgotten ? <p class="divider">{t("chat.forgotten")}</p> : null}
        </Fragment>
      ))}
    </div>
  );
}

/** Who the open conversation is with. */
function PersonaHead() {
  const persona = history.open.value?.persona ?? null;
  if (persona === null) return null;
  return (
    <p class="persona-head" data-testid="persona-head">
      <Picture picture={persona.picture} />
      <strong dir="auto">{persona.name}</strong>
    </p>
  );
}

export function ChatView() {
  const scroll = useMemo(() => new AutoScroll(), []);
  const scroller = useRef<HTMLDivElement>(null);
  const empty = useComputed(() => history.path.value.length === 0);
  useEffect(() => (scroller.current === null ? undefined : scroll.attach(scroller.current)), []);
  return (
    <main id="chat" class="chat" data-testid="chat">
      <div id="scroller" class="scroller" ref={scroller}>
        <div class="column">
          {empty.value ? <Welcome /> : null}
          <PersonaHead />
          <Log scroll={scroll} />
        </div>
      </div>
      <Composer scroll={scroll} />
    </main>
  );
}
