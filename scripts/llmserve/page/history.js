// Chats and settings in the browser's own storage. Each chat has its own key, so that two windows do not overwrite each other.

const CHAT = "chat:";

/** A chat is {id, changed, turns: [{prompt, answers: {MODEL: {text, chat, finish, error}}}]}; ids grow with time. */
export function newChat() {
    return { id: Date.now().toString(36) + Math.random().toString(36).slice(2, 6), changed: Date.now(), turns: [] };
}

export function titleOf(chat) {
    const line = chat.turns[0]?.prompt.trim().split("\n")[0] ?? "";
    return line.length > 60 ? `${line.slice(0, 59)}…` : line || "New chat";
}

/** {chats, unreadable}: all chats, the last changed first, and how many stored ones are not to be understood. */
export function loadChats() {
    const chats = [];
    let unreadable = 0;
    for (const key of keys()) {
        const chat = parsed(key);
        if (isChat(chat)) chats.push(chat);
        else unreadable += 1;
    }
    return { chats: chats.sort((a, b) => b.changed - a.changed), unreadable };
}

/** False if the browser does not store it. */
export function saveChat(chat) {
    chat.changed = Date.now();
    return store(CHAT + chat.id, JSON.stringify(chat, kept));
}

export function removeChat(chat) {
    localStorage.removeItem(CHAT + chat.id);
}

export function clearChats() {
    keys().forEach((key) => localStorage.removeItem(key));
}

/** All chats as one JSON text. */
export function exported() {
    return JSON.stringify(loadChats().chats, null, 1);
}

export function loadSettings() {
    return parsed("settings") ?? {};
}

export function saveSettings(settings) {
    return store("settings", JSON.stringify(settings));
}

/** Of an answer, what a later visit shows: probabilities would soon fill the storage. */
function kept(name, value) {
    return name === "tokens" && Array.isArray(value) ? undefined : value;
}

function keys() {
    try {
        return Object.keys(localStorage).filter((key) => key.startsWith(CHAT));
    } catch {
        return [];  // storage is switched off
    }
}

function parsed(key) {
    try {
        return JSON.parse(localStorage.getItem(key));
    } catch {
        return null;
    }
}

function store(key, value) {
    try {
        localStorage.setItem(key, value);
        return true;
    } catch {
        return false;
    }
}

function isChat(chat) {
    const isAnswer = (answer) => typeof answer?.text === "string";
    const isTurn = (turn) => typeof turn?.prompt === "string" && turn.answers && Object.values(turn.answers).every(isAnswer);
    return typeof chat?.id === "string" && Array.isArray(chat.turns) && chat.turns.every(isTurn);
}
