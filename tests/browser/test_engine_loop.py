"""The engine in a real Chromium on a toy model with known answers: load, decode, prefix reuse, stopping, errors.

What does not depend on a GPU is asked of both backends.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import toy_artifact
from tests.browser.conftest import AS_HARDWARE, run_in_worker, serving
from tests.browser.toy_artifact import CONTEXT, EOS, VOCAB
from tests.conftest import unavailable

TOY = toy_artifact.toy()
BACKENDS = ("webgpu-f32", "wasm-simd")
PROMPT = [0, 17, 45, 99, 300, 12, 7, 8, 64, 200, 31]
MESSAGES = [{"role": "user", "content": "the café in 東京"}]

# Runs BODY with a new `engine`; errors come back as plain data. The server's security policy applies, so no eval.
WITH_ENGINE = """async ([options, args]) => {
  const { createEngine } = await import("/static/wisp.js");
  const plain = (error) => ({ error: error.name, kind: error.kind, message: error.message, file: error.file });
  let engine;
  try {
    engine = await createEngine("/models/toy/", options);
    return await (async () => { BODY })();
  } catch (error) {
    return plain(error);
  } finally {
    await engine?.dispose();
  }
}"""


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("artifacts")
    toy_artifact.write(root / "toy", TOY, cpu=True)
    return root


@pytest.fixture(scope="module")
def url(artifacts: Path) -> Iterator[str]:
    with serving(artifacts) as address:
        yield address


@dataclass(frozen=True)
class Place:
    """Where engines are made: a page, and the backend that they are asked for."""

    page: Page
    backend: str


@pytest.fixture(scope="module")
def blank_page(browser: Browser, url: str) -> Iterator[Page]:
    """One page for the tests that do not care about caches."""
    page = open_page(browser, url)
    yield page
    page.context.close()


@pytest.fixture(params=BACKENDS)
def place(blank_page: Page, request: pytest.FixtureRequest) -> Place:
    return Place(blank_page, request.param)


@pytest.fixture(scope="module")
def gpu(browser: Browser, url: str) -> Iterator[Place]:
    """For what only a GPU can show: the engine takes the software adapter for one."""
    page = open_page(browser, url)
    run_in_worker(page, AS_HARDWARE)
    yield Place(page, "auto")
    page.context.close()


@pytest.fixture(params=BACKENDS)
def fresh_place(browser: Browser, url: str, request: pytest.FixtureRequest) -> Iterator[Place]:
    """A page with empty caches."""
    page = open_page(browser, url)
    yield Place(page, request.param)
    page.context.close()


def open_page(browser: Browser, url: str) -> Page:
    """A page without scripts of its own; the engine runs under its security policy."""
    page = browser.new_context().new_page()
    page.goto(url + "healthz")
    if not page.evaluate("async () => Boolean(await navigator.gpu?.requestAdapter())"):
        unavailable(f"Chromium {browser.version} offers no WebGPU adapter")
    return page


def run(where: Place | Page, body: str, args: Any = None, options: dict[str, Any] | None = None) -> Any:
    """What BODY returns. On a mere page the engine chooses its backend."""
    place = where if isinstance(where, Place) else Place(where, "auto")
    given = {"backend": place.backend, **(options or {})}
    return place.page.evaluate(WITH_ENGINE.replace("BODY", body), [given, args])


def test_info_names_the_variant_and_what_was_passed_over(gpu: Place) -> None:
    info = run(gpu, "return engine.info")
    assert info["variant"] == "webgpu-f32"
    assert [entry["variant"] for entry in info["skipped"]] == ["webgpu-f16"]
    assert "shader-f16" in info["skipped"][0]["reason"]
    assert (info["model"], info["contextLength"], info["vocabSize"]) == ("toy", CONTEXT, VOCAB)
    assert info["adapter"]["vendor"]


def test_info_of_a_variant_by_name(place: Place) -> None:
    info = run(place, "return engine.info")
    assert (info["variant"], info["backend"]) == (place.backend, place.backend.split("-")[0])
    assert info["skipped"] == []
    assert (info["threads"] > 0) == (info["backend"] == "wasm")
    assert (info["model"], info["contextLength"], info["vocabSize"]) == ("toy", CONTEXT, VOCAB)


@pytest.mark.parametrize("length", [1, 2, 4, 5, 11, 17, 40])
def test_generate_ids_equals_the_reference(place: Place, length: int) -> None:
    ids = [(7 * i + 3) % VOCAB for i in range(length)]
    out = run(place, "return engine.generateIds(args, {maxTokens: 100, ignoreEos: true})", ids)
    assert out == TOY.generate(ids, 100)


def test_logits_are_those_after_the_last_id(place: Place) -> None:
    body = """
      const first = [...await engine.logits(args)];
      await engine.generateIds(args.concat(5, 6), {maxTokens: 9});
      return [first, [...await engine.logits(args)]];"""
    first, again = run(place, body, PROMPT)
    assert first == TOY.logits(PROMPT)
    assert again == first


def test_prefix_reuse_gives_the_same_answers_and_prefills_less(place: Place) -> None:
    body = """
      const first = await engine.generateIds(args, {maxTokens: 40, ignoreEos: true});
      const before = engine.stats();
      const longer = args.concat(first, [3, 4, 5]);
      const second = await engine.generateIds(longer, {maxTokens: 20, ignoreEos: true});
      const middle = engine.stats();
      const branch = await engine.generateIds(args.slice(0, 6).concat([9, 9]), {maxTokens: 20, ignoreEos: true});
      const after = engine.stats();
      const reused = [middle.reusedTokens - before.reusedTokens, after.reusedTokens - middle.reusedTokens];
      return {first, second, branch, reused};"""
    got = run(place, body, PROMPT)
    first = TOY.generate(PROMPT, 40)
    assert got["first"] == first
    assert got["second"] == TOY.generate([*PROMPT, *first, 3, 4, 5], 20)
    assert got["branch"] == TOY.generate([*PROMPT[:6], 9, 9], 20)
    # The last sampled token was never fed back, so its row is not there.
    assert got["reused"] == [len(PROMPT) + 39, 6]


def test_a_stop_id_ends_the_answer_and_what_ran_beyond_it_is_forgotten(place: Place) -> None:
    answer = TOY.generate(PROMPT, 60)
    stop = answer[41]
    expected = answer[: answer.index(stop)]
    body = """
      const stopped = await engine.generateIds(args.ids, {maxTokens: 200, stopTokenIds: [args.stop]});
      const resumed = await engine.generateIds(args.ids.concat(stopped), {maxTokens: 30, ignoreEos: true});
      return {stopped, resumed};"""
    got = run(place, body, {"ids": PROMPT, "stop": stop})
    assert got["stopped"] == expected
    assert got["resumed"] == TOY.generate(PROMPT + expected, 30)


def test_decoding_needs_at_most_a_submit_a_token_and_reads_back_its_id(place: Place) -> None:
    body = """
      await engine.generateIds(args, {maxTokens: 20, ignoreEos: true});
      const a = engine.stats();
      await engine.generateIds(args.concat(1), {maxTokens: 100, ignoreEos: true});
      const b = engine.stats();
      return Object.fromEntries(Object.keys(a).map((key) => [key, b[key] - a[key]]));"""
    spent = run(place, body, PROMPT)
    assert spent["tokens"] == spent["decodeSteps"] == 100
    assert spent["bindGroupsCreated"] == 0
    assert spent["submits"] <= 101
    assert spent["readbacks"] <= 100
    assert spent["bytesReadBack"] == 400  # 4 a token: its id
    assert spent["bytesUploaded"] < 400  # of the request as a whole: a decode step is given nothing
    assert spent["bytesDownloaded"] == 0


def test_sampling_follows_the_seed_and_penalties_see_the_prompt(place: Place) -> None:
    body = """
      const sampled = {maxTokens: 30, temperature: 1, ignoreEos: true};
      return {
        seeded: await engine.generateIds(args, {...sampled, seed: 12}),
        again: await engine.generateIds(args, {...sampled, seed: 12}),
        distinct: await engine.generateIds(args, {maxTokens: 120, repetitionPenalty: 1.5, ignoreEos: true}),
        greedy: await engine.generateIds(args, {maxTokens: 30, ignoreEos: true}),
      };"""
    got = run(place, body, PROMPT)
    assert got["seeded"] == got["again"] == TOY.generate(PROMPT, 30, seed=12)
    assert got["distinct"] == TOY.generate(PROMPT, 120, distinct=True)
    assert got["greedy"] == TOY.generate(PROMPT, 30)


def test_the_context_bounds_prompt_and_answer(place: Place) -> None:
    body = """
      const out = [];
      out.push(await engine.generateIds(args.slice(0, 50), {ignoreEos: true}));
      out.push(await engine.generateIds(args.slice(0, 64), {ignoreEos: true}));
      out.push(await engine.generateIds(args.slice(0, 65)).catch(plain));
      out.push(await engine.generateIds([]).catch(plain));
      out.push(await engine.generateIds([-1]).catch(plain));
      out.push(await engine.generateIds([1], {temperature: -1}).catch(plain));
      out.push(await engine.generateIds([1], {maxTokens: 0}).catch(plain));
      return out;"""
    ids = [(5 * i + 1) % VOCAB for i in range(65)]
    full, one, long, empty, outside, cold, none = run(place, body, ids, {"contextLength": 64})
    assert full == TOY.generate(ids[:50], 15)
    assert one == TOY.generate(ids[:64], 1)
    assert long["kind"] == "context-overflow"
    assert "65" in long["message"]
    assert "64" in long["message"]
    assert [error["error"] for error in (empty, outside, cold, none)] == ["RequestError"] * 4


def test_requests_are_answered_in_order_and_never_interleaved(place: Place) -> None:
    body = """
      const order = [];
      const options = {maxTokens: 40, ignoreEos: true};
      const ask = (ids, n) => engine.generateIds(ids, options).then((out) => (order.push(n), out));
      const out = await Promise.all([ask(args, 0), ask(args.concat(4), 1), ask([5, 6], 2)]);
      return {order, out};"""
    got = run(place, body, PROMPT)
    assert got["order"] == [0, 1, 2]
    assert got["out"] == [TOY.generate(ids, 40) for ids in (PROMPT, [*PROMPT, 4], [5, 6])]


def test_an_abort_rejects_and_leaves_the_engine_usable(place: Place) -> None:
    body = """
      const out = {};
      const controller = new AbortController();
      const running = engine.generateIds(args, {ignoreEos: true, signal: controller.signal}).catch(plain);
      const waiting = engine.generateIds(args, {ignoreEos: true, signal: controller.signal}).catch(plain);
      controller.abort();
      out.aborted = [await running, await waiting];
      out.after = await engine.generateIds(args, {maxTokens: 10, ignoreEos: true});
      return out;"""
    got = run(place, body, PROMPT)
    assert [error["error"] for error in got["aborted"]] == ["AbortError", "AbortError"]
    assert got["after"] == TOY.generate(PROMPT, 10)


def test_chat_completions_have_openais_shape(place: Place) -> None:
    body = """
      const create = engine.chat.completions.create;
      const request = {messages: args, max_tokens: 40};
      const whole = await create(request);
      const chunks = [];
      for await (const chunk of await create({...request, stream: true, stream_options: {include_usage: true}}))
        chunks.push(chunk);
      const ids = await engine.tokenize(await engine.applyChatTemplate(args), {addSpecialTokens: false});
      return {whole, chunks, ids};"""
    got = run(place, body, MESSAGES)
    assert "error" not in got, got
    whole, chunks = got["whole"], got["chunks"]
    tokenizer = toy_artifact.tokenizer()
    text = f"<s><|user|>{MESSAGES[0]['content']}\n<|assistant|>"
    assert got["ids"] == tokenizer.encode(text, add_special_tokens=False).ids
    answer = TOY.generate(got["ids"], 40, stop=(EOS,))
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"] == {
        "role": "assistant",
        "content": tokenizer.decode(answer),
        "refusal": None,
    }
    finish = "length" if len(answer) == 40 else "stop"
    assert whole["choices"][0]["finish_reason"] == finish
    usage = whole["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(got["ids"]), len(answer))
    assert usage["extra"]["time_to_first_token_s"] > 0
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    streamed = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1])
    assert streamed == whole["choices"][0]["message"]["content"]
    assert chunks[-2]["choices"][0]["finish_reason"] == finish
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == len(answer)
    assert len({c["id"] for c in chunks}) == 1


def test_stop_strings_and_leaving_the_stream_end_the_answer(place: Place) -> None:
    body = """
      const create = engine.chat.completions.create;
      const whole = (await create({messages: args, max_tokens: 60})).choices[0].message.content;
      const stop = [...whole].slice(20, 23).join("");
      const stopped = await create({messages: args, max_tokens: 60, stop});
      const before = engine.stats().tokens;
      let seen = "";
      for await (const chunk of create({messages: args, stream: true, temperature: 1, seed: 3})) {
        seen += chunk.choices[0].delta.content ?? "";
        if (seen.length > 5) break;
      }
      const reply = await create({messages: args, max_tokens: 60});
      const spent = engine.stats().tokens - before;
      const interrupted = create({messages: args, temperature: 1, seed: 3});
      const first = await Promise.race([interrupted, new Promise((done) => setTimeout(done, 20))]);
      engine.interrupt();
      return {whole, stop, stopped, same: reply.choices[0].message.content === whole, spent,
              finish: (await interrupted).choices[0].finish_reason, first: first === undefined};"""
    got = run(place, body, MESSAGES)
    assert got["stopped"]["choices"][0]["message"]["content"] == got["whole"][: got["whole"].index(got["stop"])]
    assert got["stopped"]["choices"][0]["finish_reason"] == "stop"
    assert got["same"]
    assert got["spent"] < 200, "leaving the loop did not stop the answer"
    assert got["finish"] in ("abort", "length", "stop")


def test_what_is_not_supported_is_refused_by_name(place: Place) -> None:
    body = """
      const create = engine.chat.completions.create;
      const messages = args;
      const out = [];
      for (const extra of [{n: 0}, {tools: [{}]}, {audio: {}}, {nonsense: 1}, {stop: [""]}, {messages: []},
                           {messages: [{role: "user", content: [{type: "image_url"}]}]}, {top_p: 2}])
        out.push((await create({messages, ...extra}).catch(plain)).message);
      out.push((await create({messages, stream: true, n: 1.5}).catch(plain)).message);
      out.push((await engine.generateIds([1], {max_tokens: 3}).catch(plain)).message);
      return out;"""
    messages = run(place, body, MESSAGES)
    names = ["n", "tools", "audio", "nonsense", "stop", "messages", "content", "topP", "n", "max_tokens"]
    for name, message in zip(names, messages, strict=True):
        assert name in message
        assert "expected" in message


def test_use_after_dispose_throws(place: Place) -> None:
    body = """
      const waiting = engine.generateIds(args, {ignoreEos: true}).catch(plain);
      await engine.dispose();
      await engine.dispose();
      const sync = (work) => { try { return work(); } catch (error) { return plain(error); } };
      return [await waiting, await engine.logits(args).catch(plain), sync(() => engine.stats()),
              sync(() => engine.interrupt()), await engine.chat.completions.create({messages: []}).catch(plain)];"""
    errors = run(place, body, PROMPT)
    assert [error.get("kind") for error in errors[:4]] == ["disposed"] * 4


def test_a_named_variant_that_cannot_run_says_why(gpu: Place) -> None:
    error = run(gpu, "", None, {"backend": "webgpu-f16"})
    assert error["kind"] == "no-variant"
    assert "shader-f16" in error["message"]
    error = run(gpu, "", None, {"backend": "webgpu-f99"})
    assert "webgpu-f32" in error["message"]


def test_a_second_load_needs_no_network(fresh_place: Place, url: str) -> None:
    body = "return [engine.stats(), await engine.generateIds(args, {maxTokens: 5, ignoreEos: true})]"
    first, ids = run(fresh_place, body, PROMPT)
    assert first["bytesDownloaded"] > 0
    assert first["cacheHits"] == 0
    requested: list[str] = []
    fresh_place.page.on("request", lambda request: requested.append(request.url))
    second, again = run(fresh_place, body, PROMPT)
    assert again == ids
    assert second["bytesFromCache"] > 0
    assert [name for name in requested if "/models/" in name] == [url + "models/toy/model.json"]


def test_a_damaged_shard_is_named(fresh_place: Place) -> None:
    fresh_place.page.route("**/params_shard_1.bin*", lambda route: route.fulfill(body=b"\0" * 768))
    error = run(fresh_place, "")
    assert (error["error"], error["file"]) == ("NetworkError", "params_shard_1.bin")
    assert "SHA-256" in error["message"]


def test_a_cancelled_load_rejects_and_the_next_one_works(fresh_place: Place) -> None:
    got = fresh_place.page.evaluate(
        """async (backend) => {
          const { createEngine } = await import("/static/wisp.js");
          const controller = new AbortController();
          const phases = [];
          const onProgress = ({phase}) => { phases.push(phase); if (phase === "weights") controller.abort(); };
          const { signal } = controller;
          const error = await createEngine("/models/toy/", {backend, signal, onProgress}).catch((e) => e.name);
          const seen = [];
          const engine = await createEngine("/models/toy/", {backend, onProgress: (progress) => seen.push(progress)});
          await engine.dispose();
          return {error, seen};
        }""",
        fresh_place.backend,
    )
    assert got["error"] == "AbortError"
    last = got["seen"][-1]
    assert last["phase"] == "ready"
    assert last["loadedBytes"] == last["totalBytes"] > 0


def test_a_shader_error_shows_its_line(browser: Browser, tmp_path: Path) -> None:
    broken = toy_artifact.KERNELS.replace("var h = 0u;", "var h = nonsense;")
    toy_artifact.write(tmp_path / "toy", TOY, source=broken)
    with serving(tmp_path) as address:
        page = browser.new_page()
        page.goto(address + "healthz")
        error = run(page, "")
        page.close()
    assert error["kind"] == "shader"
    line = next(i for i, text in enumerate(broken.split("\n"), 1) if "nonsense" in text)
    assert f"{line}:11" in error["message"]
    assert "var h = nonsense;" in error["message"]


def test_without_a_chat_template_chat_is_refused(browser: Browser, tmp_path: Path) -> None:
    toy_artifact.write(tmp_path / "toy", TOY, chat_template=None)
    with serving(tmp_path) as address:
        page = browser.new_page()
        page.goto(address + "healthz")
        body = """
          return [await engine.chat.completions.create({messages: args}).catch(plain),
                  await engine.generateIds([1, 2], {maxTokens: 3, ignoreEos: true})];"""
        error, ids = run(page, body, MESSAGES)
        page.close()
    assert "chat template" in error["message"]
    assert len(ids) == 3
