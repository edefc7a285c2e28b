// Brings the sections of the page up to date by server-sent events. The page is whole without it, and then stands still.
"use strict";

const live = document.getElementById("live");
const search = document.getElementById("q");

/** Updates that wait, since their section is in use: by id, the markup that the server has rendered and escaped. */
const waiting = new Map();

function say(word, isLive) {
  if (live.textContent !== word) {
    live.textContent = word;
    live.classList.toggle("is-live", isLive);
  }
}

/** Returns true while the section has the focus, or text in it is selected: an update would take either away. */
function isInUse(section) {
  const selection = document.getSelection();
  const isSelected = selection && !selection.isCollapsed && section.contains(selection.anchorNode);
  return section.contains(document.activeElement) || isSelected;
}

/** Replaces the content of a section, and keeps how far its tables are scrolled. */
function replace(section, html) {
  const scrolled = Array.from(section.querySelectorAll(".scroll"), (table) => table.scrollLeft);
  section.innerHTML = html;
  section.querySelectorAll(".scroll").forEach((table, place) => {
    table.scrollLeft = scrolled[place] || 0;
  });
}

function update(id, html) {
  const section = document.getElementById(id);
  if (!section) {
    return;
  }
  if (isInUse(section)) {
    waiting.set(id, html);
    return;
  }
  waiting.delete(id);
  replace(section, html);
}

function connect() {
  const events = new EventSource("/dashboard/events");
  events.addEventListener("open", () => say("live", true));
  events.addEventListener("error", () => {
    say("not connected, trying again", false);
    // After an answer that is no stream of events, a browser does not try again by itself.
    if (events.readyState === EventSource.CLOSED) {
      setTimeout(connect, 5000);
    }
  });
  events.addEventListener("section", (event) => {
    const { id, html } = JSON.parse(event.data);
    update(id, html);
  });
}

document.addEventListener("focusout", () => setTimeout(() => waiting.forEach((html, id) => update(id, html)), 0));

document.addEventListener("keydown", (event) => {
  const isTyping = event.target instanceof HTMLInputElement;
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    search.focus();
    search.select();
  } else if (event.key === "Escape" && event.target === search) {
    search.blur();
  }
});

connect();
