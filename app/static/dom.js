export const find = (selector, inside = document) => inside.querySelector(selector);

export function element(kind, text) {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}

export const copyOf = (template) => find(template).content.cloneNode(true).firstElementChild;
