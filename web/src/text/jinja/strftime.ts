// `datetime.strftime` of Python on Linux, in English. Knows dates alone.

const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS = [
  ...["January", "February", "March", "April", "May", "June"],
  ...["July", "August", "September", "October", "November", "December"],
];

const DAY_MS = 86_400_000;

function dayOfYear(date: Date): number {
  return Math.round((Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) - Date.UTC(date.getFullYear(), 0, 1)) / DAY_MS);
}

/** ISO 8601's week and the year that it belongs to: that of its Thursday. */
function isoWeek(date: Date): [number, number] {
  const thursday = new Date(date.getFullYear(), date.getMonth(), date.getDate() + 3 - ((date.getDay() + 6) % 7));
  return [Math.floor(dayOfYear(thursday) / 7) + 1, thursday.getFullYear()];
}

/** A directive's text, what fills it up and to what width. */
type Directive = [text: string | number, fill: string, width: number];

const hour = (date: Date): number => (date.getHours() % 12 === 0 ? 12 : date.getHours() % 12);
const combined =
  (format: string) =>
  (date: Date): Directive => [strftime(date, format), "", 0];
const text =
  (of: (date: Date) => string) =>
  (date: Date): Directive => [of(date), "", 0];
const number =
  (of: (date: Date) => number, width: number, fill = "0") =>
  (date: Date): Directive => [of(date), fill, width];

const monthName = (date: Date): string => MONTHS[date.getMonth()] ?? "";
const dayName = (date: Date): string => DAYS[date.getDay()] ?? "";
/** Weeks of the year that begin so many days after a Sunday. */
const week = (date: Date, begin: number): number => Math.floor((dayOfYear(date) + 7 - ((date.getDay() + 7 - begin) % 7)) / 7);

const DIRECTIVES: Record<string, (date: Date) => Directive> = {
  a: text((date) => dayName(date).slice(0, 3)),
  A: text(dayName),
  b: text((date) => monthName(date).slice(0, 3)),
  h: text((date) => monthName(date).slice(0, 3)),
  B: text(monthName),
  c: combined("%a %b %e %H:%M:%S %Y"),
  C: number((date) => Math.floor(date.getFullYear() / 100), 2),
  d: number((date) => date.getDate(), 2),
  D: combined("%m/%d/%y"),
  x: combined("%m/%d/%y"),
  e: number((date) => date.getDate(), 2, " "),
  f: number((date) => date.getMilliseconds() * 1000, 6),
  F: combined("%Y-%m-%d"),
  g: number((date) => isoWeek(date)[1] % 100, 2),
  G: number((date) => isoWeek(date)[1], 4),
  H: number((date) => date.getHours(), 2),
  I: number(hour, 2),
  j: number((date) => dayOfYear(date) + 1, 3),
  k: number((date) => date.getHours(), 2, " "),
  l: number(hour, 2, " "),
  m: number((date) => date.getMonth() + 1, 2),
  M: number((date) => date.getMinutes(), 2),
  n: text(() => "\n"),
  p: text((date) => (date.getHours() < 12 ? "AM" : "PM")),
  P: text((date) => (date.getHours() < 12 ? "am" : "pm")),
  r: combined("%I:%M:%S %p"),
  R: combined("%H:%M"),
  s: number((date) => Math.floor(date.getTime() / 1000), 0),
  S: number((date) => date.getSeconds(), 2),
  t: text(() => "\t"),
  T: combined("%H:%M:%S"),
  X: combined("%H:%M:%S"),
  u: number((date) => (date.getDay() === 0 ? 7 : date.getDay()), 0),
  U: number((date) => week(date, 0), 2),
  V: number((date) => isoWeek(date)[0], 2),
  w: number((date) => date.getDay(), 0),
  W: number((date) => week(date, 1), 2),
  y: number((date) => date.getFullYear() % 100, 2),
  Y: number((date) => date.getFullYear(), 0),
  // A time without a zone.
  z: text(() => ""),
  Z: text(() => ""),
  "%": text(() => "%"),
};

export function strftime(date: Date, format: string): string {
  return format.replace(/%([-_0^#]*)(\d*)([a-zA-Z%])/g, (all, flags: string, width: string, letter: string) => {
    const found = Object.hasOwn(DIRECTIVES, letter) ? DIRECTIVES[letter]?.(date) : undefined;
    if (found === undefined) return all;
    const [value, fill, least] = found;
    const last = flags.replace(/[\^#]/g, "").slice(-1);
    const filler = last === "_" ? " " : last === "0" ? "0" : fill === "" ? " " : fill;
    const wide = width !== "" ? Math.min(Number(width), 100) : least;
    const filled = last === "-" ? String(value) : String(value).padStart(wide, filler);
    if (flags.includes("^")) return filled.toUpperCase();
    if (flags.includes("#")) return letter === "p" ? filled.toLowerCase() : /[aAbBh]/.test(letter) ? filled.toUpperCase() : filled;
    return filled;
  });
}
