// The form at the side: models, system prompt, sampling, key, and the theme.

import { loadSettings, saveSettings } from "./history.js";
import { byId, make } from "./dom.js";

const TOPS = 5;  // alternatives reported beside a token
const THEMES = ["auto", "light", "dark"];

const form = byId("settings");
const inputs = [...form.querySelectorAll("[name]")];
let models = [];
let theme = "auto";

/** Fills the form with what this browser kept, and keeps what is changed; `changed(name)` hears of it. */
export function openSettings(changed) {
    const kept = loadSettings();
    for (const input of inputs) if (kept[input.name] !== undefined) input.value = kept[input.name];
    byId("system").value = kept.system ?? "";
    byId("key").value = sessionStorage.getItem("key") ?? "";  // until the window is closed, never on disk
    setTheme(THEMES.includes(kept.theme) ? kept.theme : "auto");
    form.addEventListener("change", (event) => {
        if (event.target.id === "key") sessionStorage.setItem("key", event.target.value);
        keep();
        changed(event.target.id || event.target.name);
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    byId("theme").addEventListener("click", () => {
        setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]);
        keep();
    });
}

function setTheme(name) {
    theme = name;
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    byId("theme").textContent = `Theme: ${name}`;
}

function keep() {
    const values = Object.fromEntries(inputs.map((input) => [input.name, input.value]));
    saveSettings({ ...values, system: byId("system").value, models: chosenModels().map((model) => model.id), theme });
}

export const apiKey = () => byId("key").value;
export const systemPrompt = () => byId("system").value;
export const probabilities = () => form.elements.probabilities.value;

/** What a request needs; null, with the browser's message at the field, if a field has no valid value. */
export function samplingSettings() {
    const wrong = inputs.find((input) => !input.checkValidity());
    if (wrong) {
        document.body.classList.add("menu-open");  // a field must be visible to say what is wrong
        wrong.reportValidity();
        return null;
    }
    const number = (name) => (form.elements[name].value === "" ? null : Number(form.elements[name].value));
    const names = ["temperature", "top_p", "top_k", "max_tokens", "seed"];
    return { ...Object.fromEntries(names.map((name) => [name, number(name)])), tops: probabilities() === "off" ? 0 : TOPS };
}

// ---- models

/** Offers these models; those chosen before are chosen again, or the first. */
export function offerModels(list) {
    models = list;
    const before = loadSettings().models ?? [];
    const known = list.filter((model) => before.includes(model.id));
    const chosen = known.length ? known : list.slice(0, 1);
    const rows = list.map((model) => make("label", { class: "model", title: `${model.context} tokens of prompt and answer` },
        make("input", { type: "checkbox", value: model.id, checked: chosen.includes(model) }), make("span", {}, model.id),
        make("small", {}, model.chat ? "chat" : "continues texts")));
    byId("models").replaceChildren(make("legend", {}, "Models"), ...rows);
}

export function chosenModels() {
    const checked = [...byId("models").querySelectorAll("input:checked")].map((input) => input.value);
    return models.filter((model) => checked.includes(model.id));
}

export const findModel = (id) => models.find((model) => model.id === id);
