// The page: the chat that is shown, what the buttons and keys do, and how answers arrive.

import { hideTip, TokenPlacer } from "./answer.js";
import { answers, listModels, Refusal } from "./api.js";
import { button, byId, make } from "./dom.js";
import { clearChats, exported, loadChats, newChat, removeChat, saveChat, titleOf } from "./history.js";
import { apiKey, chosenModels, findModel, offerModels, openSettings, samplingSettings, systemPrompt } from "./settings.js";
import { isSend, TurnView } from "./turns.js";

let chat = newChat();
let views = [];
let running = null;  // the AbortController of the answers that arrive

const log = byId("log");
const prompt = byId("prompt");
const say = (text) => { byId("status").textContent = text; };

// ---- the chat that is shown

const actions = {
    resend(index, text) {
        if (!ready(text)) return false;
        running?.abort();
        chat.turns.splice(index);
        send(text);
        prompt.focus();
        return true;
    },
    retry: (index, model) => answerAgain(index, model, ""),
    resume: (index, model) => answerAgain(index, model, chat.turns[index].answers[model].text),
    changed: () => keep(chat),
};

function showChat() {
    views = chat.turns.map((turn, index) => new TurnView(turn, index, index === chat.turns.length - 1, actions));
    log.replaceChildren(...views.map((view) => view.element));
    byId("title").textContent = titleOf(chat);
    document.title = titleOf(chat);
    log.scrollTop = log.scrollHeight;
}

function openChat(other) {
    closeMenu();
    if (other.id === chat.id) return;
    running?.abort();
    chat = other;
    showChat();
    showHistory();
    prompt.focus();
}

// ---- asking

/** True if a request can be made; says what is missing otherwise. */
function ready(text) {
    if (!text.trim()) return false;
    if (!chosenModels().length) say("Choose a model first.");
    return chosenModels().length > 0 && samplingSettings() !== null;
}

function send(text) {
    const turn = { prompt: text, answers: {} };
    chat.turns.push(turn);
    keep(chat);
    showChat();
    ask(chat.turns.length - 1, chosenModels(), "");
}

function answerAgain(index, id, begun) {
    const model = findModel(id);
    if (!model) say(`The server has no model ${id} now.`);
    else if (running) say("Other answers are on their way: wait, or stop them.");
    else if (samplingSettings()) ask(index, [model], begun);
}

/** Has the models answer the turn of this index; `begun` is the beginning of an answer that is continued. */
async function ask(index, models, begun) {
    const own = new AbortController();
    setRunning(own);
    const asked = chat;
    await Promise.all(models.map((model) => receive(asked, index, model, begun, own.signal)));
    if (running === own) setRunning(null);
    keep(asked);
}

function setRunning(controller) {
    running = controller;
    byId("send").hidden = Boolean(controller);
    byId("stop").hidden = !controller;
    log.setAttribute("aria-busy", String(Boolean(controller)));
    say(controller ? "Answering …" : "");
}

async function receive(asked, index, model, begun, signal) {
    const turn = asked.turns[index];
    const before = begun ? turn.answers[model.id].tokens ?? [] : [];
    const answer = { text: begun, tokens: [...before], chat: model.chat };
    turn.answers[model.id] = answer;
    const view = views[index].show(model.id, answer, index === asked.turns.length - 1);
    view.update(true);
    const turns = turnsFor(asked, index, model.id);
    const request = { model, turns, system: systemPrompt(), begun, settings: samplingSettings() };
    const clock = { asked: performance.now(), first: 0, tokens: 0 };
    const placer = new TokenPlacer(begun.length);
    try {
        for await (const part of answers(request, apiKey(), signal)) {
            take(answer, part, clock, placer);
            scrolled(() => view.updateSoon());
        }
    } catch (error) {
        if (error.name === "AbortError") answer.finish = "stopped";
        else answer.error = error instanceof Refusal ? error.message : `The page failed: ${error.message}`;
    }
    answer.speed = speedOf(clock);
    scrolled(() => view.update(false));
}

/** What the model has seen: its own answers; of a turn that it did not answer, another model's. */
function turnsFor(asked, index, id) {
    return asked.turns.slice(0, index + 1).map(({ prompt: text, answers: given }) => ({
        prompt: text, answer: (given[id] ?? Object.values(given)[0])?.text ?? "",
    }));
}

function take(answer, part, clock, placer) {
    answer.tokens.push(...part.tokens.map((token) => placer.place(token)));
    answer.text += part.text;
    answer.finish = part.finish ?? answer.finish;
    if (part.text || part.tokens.length) clock.first ||= performance.now();
    clock.last = performance.now();
    clock.tokens = part.usage?.completion_tokens ?? clock.tokens + part.tokens.length;
}

/** The rate is left out where the answer came in less than 100 ms, nearly at once. */
function speedOf({ asked, first, last, tokens }) {
    if (!first || !tokens) return "";
    const rate = last - first > 100 ? `, ${((tokens - 1) / (last - first) * 1000).toFixed(1)} tokens/s` : "";
    return `${tokens} tokens${rate}, first after ${((first - asked) / 1000).toFixed(2)} s`;
}

/** Does it, and stays at the end of the chat if that is where the reader is. */
function scrolled(change) {
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    change();
    if (atEnd) log.scrollTop = log.scrollHeight;
}

// ---- history

function keep(kept) {
    if (!kept.turns.length) return;
    if (!saveChat(kept)) say("This chat is not kept: the browser's storage is full or off. Export and clear the history.");
    showHistory();
}

function showHistory() {
    const { chats, unreadable } = loadChats();
    byId("history").replaceChildren(...chats.map((one) => make("li", {},
        button(titleOf(one), () => openChat(one), { class: "chat", "aria-current": String(one.id === chat.id) }),
        button("×", () => forget(one), { class: "remove", "aria-label": `Delete ${titleOf(one)}` }))));
    byId("unreadable").hidden = !unreadable;
    byId("unreadable").textContent = `Stored chats that cannot be read: ${unreadable}. They stay until the history is cleared.`;
}

function forget(one) {
    removeChat(one);
    if (one.id === chat.id) leaveChat();
    else showHistory();
}

/** Opens a new chat; this one is not kept, even if an answer to it ends only now. */
function leaveChat() {
    chat.turns.length = 0;
    openChat(newChat());
}

function exportHistory() {
    const url = URL.createObjectURL(new Blob([exported()], { type: "application/json" }));
    make("a", { href: url, download: "chats.json" }).click();
    URL.revokeObjectURL(url);
}

function clearHistory() {
    if (!confirm("Delete all chats that this browser keeps?")) return;
    clearChats();
    leaveChat();
}

// ---- keys and buttons

function closeMenu() {
    document.body.classList.remove("menu-open");
    byId("menu").setAttribute("aria-expanded", "false");
}

function fitPrompt() {
    prompt.style.height = "auto";
    prompt.style.height = `${Math.min(prompt.scrollHeight + 2, innerHeight / 3)}px`;
}

function submit(event) {
    event.preventDefault();
    if (running || !ready(prompt.value)) return;
    const text = prompt.value;
    prompt.value = "";
    fitPrompt();
    send(text);
}

async function loadModels() {
    try {
        offerModels(await listModels(apiKey()));
        say("");
    } catch (error) {
        say(error.message);
        if (error.status === 401) byId("key").focus();
    }
}

openSettings((changed) => {
    if (changed === "key") loadModels();
    if (changed === "probabilities") views.forEach((view) => view.update());
});
byId("composer").addEventListener("submit", submit);
prompt.addEventListener("keydown", (event) => { if (isSend(event)) submit(event); });
prompt.addEventListener("input", fitPrompt);
byId("stop").addEventListener("click", () => running?.abort());
byId("new").addEventListener("click", () => openChat(newChat()));
byId("export").addEventListener("click", exportHistory);
byId("clear").addEventListener("click", clearHistory);
byId("menu").addEventListener("click", () => {
    const open = document.body.classList.toggle("menu-open");
    byId("menu").setAttribute("aria-expanded", String(open));
    if (open) byId("new").focus();
});
document.querySelector("main").addEventListener("click", (event) => { if (event.target.id !== "menu") closeMenu(); });
document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    hideTip();
    running?.abort();
    closeMenu();
});
showChat();
showHistory();
loadModels();
