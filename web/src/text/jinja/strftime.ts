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
function directive(date: Date, letter: string): [string | number, string, number] | undefined {
  const [day, month, hours] = [date.getDay(), date.getMonth(), date.getHours()];
  const combined = (format: string): [string, string, number] => [strftime(date, format), "", 0];
  const twelve = hours % 12 === 0 ? 12 : hours % 12;
  switch (letter) {
    case "a":
      return [(DAYS[day] ?? "").slice(0, 3), "", 0];
    case "A":
      return [DAYS[day] ?? "", "", 0];
    case "b":
    case "h":
      return [(MONTHS[month] ?? "").slice(0, 3), "", 0];
    case "B":
      return [MONTHS[month] ?? "", "", 0];
    case "c":
      return combined("%a %b %e %H:%M:%S %Y");
    case "C":
      return [Math.floor(date.getFullYear() / 100), "0", 2];
    case "d":
      return [date.getDate(), "0", 2];
    case "D":
    case "x":
      return combined("%m/%d/%y");
    case "e":
      return [date.getDate(), " ", 2];
    case "f":
      return [date.getMilliseconds() * 1000, "0", 6];
    case "F":
      return combined("%Y-%m-%d");
    case "g":
      return [isoWeek(date)[1] % 100, "0", 2];
    case "G":
      return [isoWeek(date)[1], "0", 4];
    case "H":
      return [hours, "0", 2];
    case "I":
      return [twelve, "0", 2];
    case "j":
      return [dayOfYear(date) + 1, "0", 3];
    case "k":
      return [hours, " ", 2];
    case "l":
      return [twelve, " ", 2];
    case "m":
      return [month + 1, "0", 2];
    case "M":
      return [date.getMinutes(), "0", 2];
    case "n":
      return ["\n", "", 0];
    case "p":
      return [hours < 12 ? "AM" : "PM", "", 0];
    case "P":
      return [hours < 12 ? "am" : "pm", "", 0];
    case "r":
      return combined("%I:%M:%S %p");
    case "R":
      return combined("%H:%M");
    case "s":
      return [Math.floor(date.getTime() / 1000), "0", 0];
    case "S":
      return [date.getSeconds(), "0", 2];
    case "t":
      return ["\t", "", 0];
    case "T":
    case "X":
      return combined("%H:%M:%S");
    case "u":
      return [day === 0 ? 7 : day, "0", 0];
    case "U":
      return [Math.floor((dayOfYear(date) + 7 - day) / 7), "0", 2];
    case "V":
      return [isoWeek(date)[0], "0", 2];
    case "w":
      return [day, "0", 0];
    case "W":
      return [Math.floor((dayOfYear(date) + 7 - ((day + 6) % 7)) / 7), "0", 2];
    case "y":
      return [date.getFullYear() % 100, "0", 2];
    case "Y":
      return [date.getFullYear(), "0", 0];
    case "z":
    case "Z":
      return ["", "", 0]; // a time without a zone
    case "%":
      return ["%", "", 0];
    default:
      return undefined;
  }
}

export function strftime(date: Date, format: string): string {
  return format.replace(/%([-_0^#]*)(\d*)([a-zA-Z%])/g, (all, flags: string, width: string, letter: string) => {
    const found = directive(date, letter);
    if (found === undefined) return all;
    const [value, fill, least] = found;
    const last = flags.replace(/[\^#]/g, "").slice(-1);
    const filler = last === "_" ? " " : last === "0" ? "0" : fill === "" ? " " : fill;
    const wide = width !== "" ? Math.min(Number(width), 100) : least;
    const text = last === "-" ? String(value) : String(value).padStart(wide, filler);
    if (flags.includes("^")) return text.toUpperCase();
    if (flags.includes("#")) return letter === "p" ? text.toLowerCase() : /[aAbBh]/.test(letter) ? text.toUpperCase() : text;
    return text;
  });
}
