/** Every limit of the sync stream with its reason. Both ends count by the same numbers (SY4). */

export const SYNC_PROTOCOL = "/skein/sync/1";

/** One frame. Large enough for eight of the largest envelopes, small enough that a phone holds several. */
export const MAX_FRAME_BYTES = 1024 * 1024;

/** An opaque envelope or deposit: a payload of 64 KiB with framing, signatures and room to grow. */
export const MAX_ENVELOPE_BYTES = 72 * 1024;

/** A sealed directory record (8 KiB) with its framing and signature. */
export const MAX_RECORD_BYTES = 9 * 1024;

/** A capability grant or its revocation: keys, counters and a signature. */
export const MAX_GRANT_BYTES = 1024;

/** Entries in one frame, so that a batch of small envelopes stays one commit of some milliseconds. */
export const MAX_ITEMS = 512;

/** Topics in one subscribe frame: each costs a signature check (about 0.2 ms), so a frame costs at most about 13 ms. */
export const MAX_TOPICS_PER_FRAME = 64;

/** Topics one connection may read: 300 conversations of three periods, and some communities. */
export const MAX_TOPICS = 1024;

/** Inboxes one connection may read: an account's own, and one for each of a few pseudonyms. */
export const MAX_INBOXES = 16;

/** Bytes of envelopes one batch of a backlog carries: about 100 envelopes of 1 KB, one commit at the reader. */
export const BATCH_BYTES = 128 * 1024;

/** Put envelopes of one commit that are pushed whole to a reader in one frame; a bigger burst is read as a backlog. */
export const MAX_PUSH_BYTES = 512 * 1024;

/** What a reader lets a mailbox have on the way to it on one lane: eight batches keep a line of 100 ms at 10 MB/s full. */
export const LANE_CREDIT_BYTES = 1024 * 1024;

/** The most credit a reader may ever have granted; more is a mistake or an attack on our counters. */
export const MAX_CREDIT_BYTES = 16 * 1024 * 1024;

/** Bytes of envelopes in one put frame, but for a single large one: the mailbox commits while the next is on its way. */
export const PUT_FRAME_BYTES = 256 * 1024;

/** Put bytes that a client may have unanswered at a mailbox: bounds the memory that one connection can claim. */
export const PUT_WINDOW_BYTES = 2 * 1024 * 1024;

/** Announced entries a client may miss and want at once. A mailbox that announces more of them is broken or hostile. */
export const MAX_WANTED = 4096;

/** Frames of a topic whose commits are outstanding at the client; credits keep an honest mailbox far below. */
export const MAX_MILESTONES = 4096;

/** Requests (inbox, directory) in flight on one connection. */
export const MAX_REQUESTS = 16;

/** Records in one directoryPut: a device's hundred one-time bundles go up in a few frames. */
export const MAX_RECORDS_PER_FRAME = 64;

/** Slots a directory answers for at once: eight live devices of an account and eight replaced ones. */
export const MAX_SLOTS = 16;

/** Work a connection may ask for at once, in tokens (see `cost`), before it is slowed down. A first subscription of 1,024 topics fits. */
export const TOKEN_BURST = 16_384;

/** Tokens that come back a second: some 3,500 small envelopes put a second by one connection, about one core's worth. */
export const TOKENS_PER_SECOND = 32_768;

/** Tokens of one Ed25519 check, about eight times the cost of taking in a small frame, which is one. */
export const TOKENS_PER_CHECK = 8;

/** Bytes of a frame that cost one token. */
export const BYTES_PER_TOKEN = 4096;

/** Frames waiting for a slow reader at the mailbox. Beyond it the log, not memory, keeps what comes (SY16). */
export const MAX_QUEUED_BYTES = 2 * 1024 * 1024;

/** What a mailbox waits for more gossiped envelopes of a topic before it signs one receipt for all of them. */
export const HAVE_DELAY_MS = 250;

/** The hello has to come within this time, on the slowest path we support (a relayed phone). */
export const HELLO_DEADLINE_MS = 10_000;

/** Text of a reject code. */
export const MAX_CODE_BYTES = 48;

export const HOUR_MS = 3_600_000;
