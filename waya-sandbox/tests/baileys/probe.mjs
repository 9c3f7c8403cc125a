// Drives the emulator with Baileys: node probe.mjs WS_URL ADMIN_URL [--pn-only]
//
// NODE_EXTRA_CA_CERTS has to name the `ca` of the ready line. Prints one line of JSON for each step; the exit code is 0
// if all went well.

import assert from 'node:assert/strict';
import { randomBytes, randomInt } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { S_WHATSAPP_NET, WAMessageStatus, WAMessageStubType, areJidsSameUser, downloadMediaMessage } from 'baileys';
import { Client, PATIENCE, READS_HISTORY, mediaOptions, trust } from './client.mjs';

// One pixel. Baileys wants an image library for thumbnails unless it is given one.
const JPEG = Buffer.from(
  '/9j/2wBDAAMCAgICAgMCAgIDAwMDBAYEBAQEBAgGBgUGCQgKCgkICQkKDA8MCgsOCwkJDRENDg8QEBEQCgwSExIQEw8QEBD/' +
    'yQALCAABAAEBAREA/8wABgAQEAX/2gAIAQEAAD8A0s8g/9k=',
  'base64',
);
const DAY = 24 * 60 * 60 * 1000;

const [url, admin, root, mode] = process.argv.slice(2);
if (!url || !admin || !root) {
  process.stderr.write('usage: node probe.mjs WS_URL ADMIN_URL NOISE_ROOT [--pn-only]\n');
  process.exit(2);
}
trust(root);

let failed = 0;
const report = (step, error) => {
  failed += error ? 1 : 0;
  const line = error ? { step, ok: false, why: String(error?.message ?? error) } : { step, ok: true };
  process.stdout.write(`${JSON.stringify(line)}\n`);
};
// The Signal library writes whole sessions, keys included, to the console.
for (const level of ['debug', 'log', 'info', 'warn', 'error']) console[level] = () => {};
process.on('unhandledRejection', (error) => report('nothing fails unheard', error));

const folder = await mkdtemp(join(tmpdir(), 'baileys-probe-'));
async function finish() {
  await rm(folder, { recursive: true, force: true }).catch(() => {});
  process.exit(failed ? 1 : 0);
}
setTimeout(() => {
  report('ends in time', 'not within four minutes');
  finish();
}, 240_000).unref();

/** Runs one step; true if it went well. */
async function step(name, run) {
  try {
    await within(run());
    report(name);
    return true;
  } catch (error) {
    report(name, error);
    return false;
  }
}

/** Some of what Baileys asks has no end of its own. Steps that wait for several things get their sum. */
function within(promise, limit = 2 * PATIENCE) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`unfinished after ${limit} ms`)), limit);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function ask(method, path, body) {
  const answer = await fetch(admin + path, { method, body, signal: AbortSignal.timeout(PATIENCE) });
  const text = await answer.text();
  assert(answer.ok, `${path}: ${answer.status} ${text}`);
  return JSON.parse(text);
}

const post = (path, body) => ask('POST', path, JSON.stringify(body));

// Numbers nobody had before, so that the emulator may keep its data from one run to the next.
const number = () => `62817${randomInt(10_000_000, 99_999_999)}`;
const a = new Client(url, number(), join(folder, 'a'));
const b = new Client(url, number(), join(folder, 'b'));

const textOf = ({ message }) => message?.extendedTextMessage?.text ?? message?.conversation;
const unread = (id) => (message) => message.key.id === id && !message.key.fromMe;

/** Sends something and gives its key, and what the other one made of it. */
async function pass(from, to, content, { chat = to.jid, ...options } = {}) {
  // A copy: a revoke changes the key of the message that was sent, if it comes soon.
  const sent = { ...(await from.sock.sendMessage(chat, content, options)).key };
  const got = await to.until('messages.upsert', unread(sent.id), `message ${sent.id}`);
  assert(got.message, `not decrypted: ${got.messageStubParameters}`);
  const { remoteJid, remoteJidAlt, participant, participantAlt } = got.key;
  const author = participant ? [participant, participantAlt] : [remoteJid, remoteJidAlt];
  const own = (jid) => areJidsSameUser(jid, from.jid) || areJidsSameUser(jid, from.lid);
  assert(author.some(own), `it came from ${author}`);
  return { sent, got };
}

/** Sends a text, and waits until it was delivered. */
async function say(from, to, text, options) {
  const passed = await pass(from, to, { text }, options);
  assert.equal(textOf(passed.got), text);
  await from.status(passed.sent.id, WAMessageStatus.DELIVERY_ACK);
  return passed;
}

const linked =
  (await step('link by QR code', async () => {
    await a.link((qr) => ask('POST', `/mock-phone/scan-qr?phone=${a.phone}`, qr));
    await a.login();
  })) &&
  (await step('link by pairing code', async () => {
    await b.link(async () => post('/mock-phone/enter-code', { phone: b.phone, code: await b.pairingCode() }));
    await b.login();
  }));
if (!linked) await finish();

// Since version 7 it knows that people have two addresses.
const mapping = a.sock.signalRepository.lidMapping;

await step('history and app-state keys', async () => {
  for (const client of [a, b]) {
    await client.until('creds.update', ({ myAppStateKeyId }) => myAppStateKeyId, 'app-state key');
    if (READS_HISTORY) await client.until('messaging-history.set', () => true, 'history');
  }
});

// Baileys is not there for others before it has a name.
await step('names and availability', async () => {
  for (const [client, name] of [[a, 'Ana'], [b, 'Bram']]) {
    await client.sock.updateProfileName(name);
    await client.until('creds.update', ({ me }) => me?.name === name, 'own name');
    await client.sock.sendPresenceUpdate('available');
  }
});

let first;
await step('text from A to B, delivered', async () => {
  first = await say(a, b, 'Selamat pagi ☀️');
});
await step('text from B to A, delivered', () => say(b, a, 'Pagi juga'));
await step('text addressed by LID', async () => {
  const lid = mapping ? await mapping.getLIDForPN(b.jid) : b.lid;
  await say(a, b, 'Lewat LID', { chat: lid });
});
await step('read receipt', async () => {
  await b.sock.readMessages([first.got.key]);
  await a.status(first.sent.id, WAMessageStatus.READ);
});
await step('quoted reply', async () => {
  const { got } = await pass(b, a, { text: 'Apa kabar?' }, { quoted: first.got });
  const context = got.message.extendedTextMessage.contextInfo;
  assert.equal(context.stanzaId, first.sent.id);
  assert.equal(textOf({ message: context.quotedMessage }), textOf(first.got));
});
await step('reaction', async () => {
  await b.sock.sendMessage(a.jid, { react: { text: '👍', key: first.got.key } });
  const { reaction } = await a.until('messages.reaction', ({ key }) => key.id === first.sent.id, 'reaction');
  assert.equal(reaction.text, '👍');
});
await step('edit', async () => {
  const { sent } = await pass(a, b, { text: 'salah' });
  await a.sock.sendMessage(b.jid, { text: 'benar', edit: sent });
  const edited = ({ key, update }) => key.id === sent.id && update.message?.editedMessage;
  const { update } = await b.until('messages.update', edited, 'edit');
  assert.equal(textOf(update.message.editedMessage), 'benar');
});
await step('revoke', async () => {
  const { sent } = await pass(a, b, { text: 'jangan dibaca' });
  await a.sock.sendMessage(b.jid, { delete: sent });
  const revoked = ({ key, update }) => key.id === sent.id && update.messageStubType === WAMessageStubType.REVOKE;
  await b.until('messages.update', revoked, 'revoke');
});
await step('poll', async () => {
  const values = ['nasi', 'mi'];
  const { got } = await pass(a, b, { poll: { name: 'Makan apa?', values, selectableCount: 1 } });
  const poll = got.message.pollCreationMessageV3 ?? got.message.pollCreationMessage;
  assert.equal(poll.name, 'Makan apa?');
  assert.deepEqual(poll.options.map(({ optionName }) => optionName), values);
});
await step('location', async () => {
  const { got } = await pass(a, b, { location: { degreesLatitude: -6.2, degreesLongitude: 106.8, name: 'Jakarta' } });
  const { degreesLatitude, degreesLongitude, name } = got.message.locationMessage;
  assert.deepEqual([degreesLatitude, degreesLongitude, name], [-6.2, 106.8, 'Jakarta']);
});
await step('contact', async () => {
  const vcard = 'BEGIN:VCARD\nVERSION:3.0\nFN:Budi\nTEL;waid=6281200000002:+62 812-0000-0002\nEND:VCARD';
  const { got } = await pass(a, b, { contacts: { displayName: 'Budi', contacts: [{ vcard }] } });
  assert.equal(got.message.contactMessage.vcard, vcard);
});
await step('image', async () => {
  const { got } = await pass(a, b, { image: JPEG, caption: 'satu titik', jpegThumbnail: JPEG.toString('base64') });
  assert.equal(got.message.imageMessage.caption, 'satu titik');
  assert(JPEG.equals(await downloadMediaMessage(got, 'buffer', mediaOptions(admin))));
});
await step('document', async () => {
  const bytes = randomBytes(300_001);
  const { got } = await pass(a, b, { document: bytes, mimetype: 'application/pdf', fileName: 'laporan.pdf' });
  const { documentMessage, documentWithCaptionMessage } = got.message;
  assert.equal((documentMessage ?? documentWithCaptionMessage.message.documentMessage).fileName, 'laporan.pdf');
  assert(bytes.equals(await downloadMediaMessage(got, 'buffer', mediaOptions(admin))));
});

let group;
await step('group made', async () => {
  group = (await a.sock.groupCreate('Arisan', [b.jid])).id;
  const { subject, participants } = await b.until('groups.upsert', ({ id }) => id === group, 'group');
  assert.equal(subject, 'Arisan');
  assert.equal(participants.length, 2);
});
await step('group text both ways', async () => {
  for (const [from, to, text] of [[a, b, 'Halo semua'], [b, a, 'Halo Ana'], [a, b, 'Besok ya']]) {
    const { sent, got } = await pass(from, to, { text }, { chat: group });
    assert.deepEqual([textOf(got), got.key.remoteJid], [text, group]);
    await from.deliveredInGroup(sent.id);
  }
});
await step('group subject', async () => {
  await a.sock.groupUpdateSubject(group, 'Arisan RT 05');
  await b.until('groups.update', ({ id, subject }) => id === group && subject === 'Arisan RT 05', 'subject');
});
await step('list of groups', async () => {
  const groups = await b.sock.groupFetchAllParticipating();
  assert.equal(groups[group]?.subject, 'Arisan RT 05');
  const { addressingMode, participants } = groups[group];
  if (!READS_HISTORY) {
    // Before version 7 there is one address only.
    assert(participants.some(({ id }) => [a.jid, a.lid].includes(id)));
    return;
  }
  // Both addresses of everybody, the one that the group goes by first.
  const pnOnly = mode === '--pn-only';
  const named = participants.map(({ id, phoneNumber, lid }) => (pnOnly ? [id, lid] : [id, phoneNumber]));
  assert.equal(addressingMode, pnOnly ? 'pn' : 'lid');
  assert.deepEqual(named.sort(), [a, b].map(({ jid, lid }) => (pnOnly ? [jid, lid] : [lid, jid])).sort());
});
await step('group invite code', async () => {
  const code = await a.sock.groupInviteCode(group);
  assert.equal((await b.sock.groupGetInviteInfo(code)).id, group);
});

await step('known and unknown numbers', async () => {
  const unknown = number();
  const found = await a.sock.onWhatsApp(b.jid, unknown);
  assert.deepEqual(found.map(({ jid, exists }) => [jid, exists]), [[b.jid, true]]);
});
// Applications find the chat by the address, so it has to be the one without a device.
const shown = (state) => ({ id, presences }) => id === a.jid && presences[a.jid]?.lastKnownPresence === state;
await step('presence', async () => {
  await b.sock.presenceSubscribe(a.jid);
  await b.until('presence.update', shown('available'), 'availability of A');
  await a.sock.sendPresenceUpdate('unavailable');
  await b.until('presence.update', shown('unavailable'), 'absence of A');
  await a.sock.sendPresenceUpdate('available');
});
await step('typing', async () => {
  await a.sock.sendPresenceUpdate('composing', b.jid);
  await b.until('presence.update', shown('composing'), 'typing of A');
});
await step('profile picture', async () => {
  // What updateProfilePicture sends, without the image library it insists on.
  const picture = { tag: 'picture', attrs: { type: 'image' }, content: JPEG };
  const attrs = { to: S_WHATSAPP_NET, type: 'set', xmlns: 'w:profile:picture' };
  await a.sock.query({ tag: 'iq', attrs, content: [picture] });
  const shown = await fetch(await b.sock.profilePictureUrl(a.jid, 'image'));
  assert(JPEG.equals(Buffer.from(await shown.arrayBuffer())));
});
await step('what people say about themselves', async () => {
  await a.sock.updateProfileStatus('Sibuk 🙏');
  const [{ id, status }] = await b.sock.fetchStatus(a.jid);
  assert.deepEqual([id, status.status], [a.jid, 'Sibuk 🙏']);
});
await step('block list', async () => {
  const blocked = async () => (await a.sock.fetchBlocklist()).some((jid) => [b.lid, b.jid].includes(jid));
  await a.sock.updateBlockStatus(b.jid, 'block');
  assert.equal(await blocked(), true);
  await a.sock.updateBlockStatus(b.jid, 'unblock');
  assert.equal(await blocked(), false);
});
await step('privacy settings', async () => {
  assert.equal((await a.sock.fetchPrivacySettings(true)).groupadd, 'all');
  await a.sock.updateGroupsAddPrivacy('contacts');
  const { groupadd, last, readreceipts } = await a.sock.fetchPrivacySettings(true);
  assert.deepEqual([groupadd, last, readreceipts], ['contacts', 'all', 'all']);
});
await step('app state', async () => {
  const until = Date.now() + DAY;
  await a.sock.chatModify({ mute: until }, b.jid);
  // Without a version of its own Baileys asks for all that the server has, and decrypts it.
  await a.sock.authState.keys.set({ 'app-state-sync-version': { regular_high: null } });
  const muted = () => a.heard('chats.update', ({ id, muteEndTime }) => id === b.jid && Number(muteEndTime) === until);
  const before = muted().length;
  await a.sock.resyncAppState(['regular_high'], false);
  await a.until('chats.update', () => muted().length > before, 'mute from the server');
});

await step('five texts for one who was away', async () => {
  await b.leave();
  const texts = [1, 2, 3, 4, 5].map((count) => `nomor ${count}`);
  const ids = [];
  for (const text of texts) ids.push((await a.sock.sendMessage(b.jid, { text })).key.id);
  await b.login();
  for (const id of ids) await b.until('messages.upsert', unread(id), `message ${id}`);
  assert.deepEqual(b.heard('messages.upsert', ({ key }) => ids.includes(key.id)).map(textOf), texts);
});
await step('a simulated person', async () => {
  const { id } = await post('/say', { from: 'Budi', to: a.phone, text: 'Ana ada?' });
  const asked = await a.until('messages.upsert', unread(id), 'text of Budi');
  assert.equal(textOf(asked), 'Ana ada?');
  const { key } = await a.sock.sendMessage(asked.key.remoteJid, { text: 'Ada' }, { quoted: asked });
  await a.status(key.id, WAMessageStatus.READ);
  const { messages } = await ask('GET', '/inbox/Budi');
  const { from, text, quoted } = messages.find((message) => message.id === key.id);
  assert.deepEqual([from, text, quoted], [`${a.phone}@c.us`, 'Ada', id]);
});
await step('logout', async () => {
  await b.sock.logout();
  await b.loginIsRefused();
});

await a.leave();
await finish();
