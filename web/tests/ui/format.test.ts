import { describe, expect, it } from "vitest";
import { binaryBytes, bytes, latency, parameters, speed } from "../../src/ui/format";
import { RateMeter } from "../../src/ui/state/rate";
import { duration, values } from "../../src/ui/state/words";
import { t } from "../../src/ui/texts";

describe("what weights are to those of their source", () => {
  const source = { formats: { Q4_1: 120, Q8_0: 1 }, exact: 121, rounded: 0, requantized: 0, squaredError: 0 };
  it("nothing where it was not quantized", () => expect(values(undefined)).toBe(""));
  it("the same", () => expect(values(source)).toBe("exactly those of the source (Q4_1, Q8_0)"));
  it("the same but for scales", () => {
    expect(values({ ...source, exact: 0, rounded: 121 })).toBe("those of the source (Q4_1, Q8_0), scales rounded to 16 bits");
    expect(values({ ...source, exact: 1, rounded: 120 })).toBe("those of the source (Q4_1, Q8_0), some scales rounded to 16 bits");
  });
  it("others", () => {
    const text = values({ ...source, exact: 1, requantized: 120, squaredError: 0.00831 });
    expect(text).toBe("quantized again from Q4_1, Q8_0, squared error 0.83 %");
  });
});

describe("numbers as people read them", () => {
  it.each([
    [0, "0 B"],
    [999, "999 B"],
    [1000, "1.0 kB"],
    [2_812_345, "2.8 MB"],
    [99_960_000, "100 MB"],
    [999_600_000, "1.0 GB"],
    [695_000_000, "695 MB"],
    [2_150_000_000, "2.2 GB"],
  ])("%d bytes", (n, text) => expect(bytes(n)).toBe(text));

  it.each([
    [134_217_728, "128 MiB"],
    [1_073_741_824, "1 GiB"],
    [16_384, "16 KiB"],
    [1536, "1.5 KiB"],
  ])("%d bytes in powers of two", (n, text) => expect(binaryBytes(n)).toBe(text));

  it.each([
    [320, "320"],
    [4_999_999, "5 M"],
    [109_900_000, "110 M"],
    [1_235_814_400, "1.2 B"],
    [3_821_079_552, "3.8 B"],
    [134_515_008, "135 M"],
  ])("%d parameters", (n, text) => expect(parameters(n)).toBe(text));

  it.each([
    [0.2, "1 s"],
    [59.2, "1 min 0 s"],
    [3725, "1 h 2 min"],
  ])("%d seconds left", (n, text) => expect(duration(n)).toBe(text));

  it("speeds, latencies and plurals", () => {
    expect([8.254, 34.21, 1204.3].map(speed)).toEqual(["8.25", "34.2", "1,204"]);
    expect([0.0849, 0.9999, 1.423].map(latency)).toEqual(["85 ms", "1.00 s", "1.42 s"]);
    expect([t("tokens", { n: 1 }), t("tokens", { n: 1200 })]).toEqual(["1 token", "1,200 tokens"]);
  });
});

describe("RateMeter", () => {
  it("needs a moment before it says anything", () => {
    const meter = new RateMeter();
    meter.add(0, 0);
    meter.add(100, 1000);
    expect(meter.perSecond()).toBeNull();
  });

  it("follows the last seconds, not the whole download", () => {
    const meter = new RateMeter();
    for (let at = 0; at <= 10_000; at += 500) meter.add(at, at * 1000);
    for (let at = 10_500; at <= 20_000; at += 500) meter.add(at, 10_000_000 + (at - 10_000));
    expect(meter.perSecond()).toBeCloseTo(1000);
  });

  it("says nothing when bytes were taken back", () => {
    const meter = new RateMeter();
    meter.add(0, 5000);
    meter.add(1000, 100);
    expect(meter.perSecond()).toBeNull();
  });
});
