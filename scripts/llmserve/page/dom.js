// Making elements. Text becomes text nodes, never markup.

/** An element with properties (`class` and those with a dash are attributes, `on...` are listeners) and children. */
export function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
        if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
        else if (name === "class" || name === "role" || name.includes("-")) element.setAttribute(name, value);
        else element[name] = value;
    }
    element.append(...children);
    return element;
}

export const byId = (id) => document.getElementById(id);

export function button(label, onclick, properties = {}) {
    return make("button", { type: "button", onclick, ...properties }, label);
}

/** Copies text and says so on the button for a moment. */
export async function copy(text, from) {
    const label = from.textContent;
    try {
        await navigator.clipboard.writeText(text);
        from.textContent = "Copied";
    } catch {
        // browsers offer the clipboard to https and to this machine's own addresses only
        from.textContent = "Refused by the browser";
    }
    setTimeout(() => { from.textContent = label; }, 1500);
}
