'use strict';

const address = document.getElementById('overlay-url');
const copy = document.getElementById('copy');
const copied = document.getElementById('copied');

copy.hidden = false;
copy.addEventListener('click', async () => {
  address.select();
  try {
    await navigator.clipboard.writeText(address.value);
    copied.textContent = 'Copied.';
  } catch {
    copied.textContent = 'It is selected: copy it with Ctrl+C, or ⌘C on a Mac.';
  }
});

// What is typed and not saved outlives this page: a form that is refused, another form, a link, signing in again. It
// stays in this tab, with the version that was edited and without the form's token.
const KEPT = 'chatpulse-settings';
const form = document.getElementById('settings-form');
const version = form.elements.version;
const pageVersion = version.value;
const card = document.getElementById('kept');

/** The settings by name: as they stand in the form `now`, or else as the page brought them. */
function settings(now) {
  const texts = {};
  for (const field of form.elements) {
    if (!field.name || field.type === 'hidden') continue;
    if (field.type === 'radio') {
      if (now ? field.checked : field.defaultChecked) texts[field.name] = field.value;
    } else if (field.type === 'select-one') {
      const chosen = [...field.options].find((option) => (now ? option.selected : option.defaultSelected));
      texts[field.name] = chosen ? chosen.value : '';
    } else {
      texts[field.name] = now ? field.value : field.defaultValue;
    }
  }
  return texts;
}

/** Keeps what is typed, with the version that was edited: where others were saved meanwhile, that is to be told again
 * wherever it is not sent from here. */
function keep() {
  const edited = form.dataset.edited || version.value;
  const draft = { owner: form.dataset.owner, version: edited, settings: settings(true) };
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(draft));
  } catch {
    // A browser that keeps nothing for us has its back button left.
  }
}

function forget() {
  try {
    sessionStorage.removeItem(KEPT);
  } catch {
    // Then nothing was kept, either.
  }
}

/** What was kept of this streamer. */
function kept() {
  try {
    const draft = JSON.parse(sessionStorage.getItem(KEPT));
    return draft && draft.owner === form.dataset.owner && draft.settings ? draft : null;
  } catch {
    return null;
  }
}

function putBack(draft) {
  for (const [name, text] of Object.entries(draft.settings)) {
    const field = form.elements[name];
    if (field) field.value = text;
  }
  version.value = draft.version;
  const movedOn = draft.version !== pageVersion;
  card.hidden = false;
  document.getElementById('kept-text').textContent = 'These settings are not saved yet: what you typed is here again.'
    + (movedOn ? ' Others were saved meanwhile; when you save, you see where they differ.' : '');
  // What appears together with its text is not read aloud by itself.
  card.focus();
}

function begin() {
  if (form.dataset.shows === 'typed') return keep();
  if (form.dataset.shows === 'just-saved') return forget();
  const draft = kept();
  if (!draft) return undefined;
  const shown = settings(false);
  if (Object.keys(shown).every((name) => draft.settings[name] === shown[name])) return forget();
  return putBack(draft);
}

begin();
form.addEventListener('input', keep);
document.getElementById('load-saved')?.addEventListener('click', forget);
document.getElementById('drop').addEventListener('click', () => {
  forget();
  form.reset();
  version.value = pageVersion;
  card.hidden = true;
  form.elements.for_triggers.focus();
});

// What was done is told once, and not again when the page is loaded anew.
if (location.search) history.replaceState(null, '', location.pathname);
