// Lets the event loop turn once: messages that have arrived (an abort, an answer) are handled before it goes on.

const waiting: (() => void)[] = [];
let channel: MessageChannel | undefined;

/** Not setTimeout: browsers make it wait for 4 ms. Not scheduler.yield: it goes on before messages are handled. */
export function turn(): Promise<void> {
  const { setImmediate } = globalThis as { setImmediate?: (callback: () => void) => void };
  return new Promise((resolve) => {
    if (setImmediate !== undefined) {
      setImmediate(resolve); // Node: an open channel would keep the process alive.
      return;
    }
    if (channel === undefined) {
      channel = new MessageChannel();
      channel.port1.onmessage = () => waiting.shift()?.();
    }
    waiting.push(resolve);
    channel.port2.postMessage(null);
  });
}
