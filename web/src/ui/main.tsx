// The page: choose a model, load it, chat. This module starts the parts; state/ holds what they know, views/ show it.

import "./style.css";
import { render } from "preact";
import { tooOld } from "../api/browsers";
import { start } from "./state/app";
import { speakChosen } from "./state/spoken";
import { keepPage } from "./state/service-worker";
import { App } from "./views/app";

const root = document.getElementById("app");
// In a browser that is too old check.js says so, in what the page shows until now.
if (tooOld() === undefined && root !== null) {
  keepPage();
  void speakChosen().then(() => {
    root.replaceChildren();
    render(<App />, root);
    return start();
  });
}
