// The browsers that Wisp runs in: the one place that says so. tests/api/browsers.test.ts holds it against what the built files
// use. Runs on pages of far older browsers too, to tell them: no newer syntax or function than theirs may stand here.

/** First versions. Chromium's others, such as Edge and Opera, count as Chrome does. */
export const MINIMUM = { chrome: 110, firefox: 115, safari: 16.4 };

/** First versions with WebGPU, which models run faster with; without it they run on the CPU. */
export const WEBGPU = { chrome: 113, chromeOnAndroid: 121, firefox: 141, firefoxOnMacs: 145, safari: 26 };

const list = ({ chrome, firefox, safari }: typeof MINIMUM): string =>
  `Chrome or Edge ${chrome}, Firefox ${firefox}, Safari ${safari} or later`;

export const BROWSERS = list(MINIMUM);
export const BROWSERS_WITH_WEBGPU = list(WEBGPU);

/**
 * What the oldest of these browsers have and the ones before them lack, by its name in MDN's table of browsers. What a page
 * could do is looked at, not what a browser calls itself.
 */
export const SIGNS: readonly { name: string; there: () => boolean }[] = [
  { name: "javascript.builtins.Array.toSorted", there: () => typeof (Array.prototype as { toSorted?: unknown }).toSorted === "function" },
  { name: "javascript.regular_expressions.lookbehind_assertion", there: () => compiles("(?<=a)b") },
];

function compiles(pattern: string): boolean {
  try {
    new RegExp(pattern);
    return true;
  } catch {
    return false;
  }
}

/** The sentence for a browser that is too old; undefined in others. */
export function tooOld(): string | undefined {
  return SIGNS.every(({ there }) => there()) ? undefined : `This browser is too old for Wisp, which runs in ${BROWSERS}`;
}
