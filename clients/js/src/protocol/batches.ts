/** How many files become how few requests. */

const MAX_ROWS = 64; // the server's cap
const MAX_BATCH_BYTES = 8 * 1024 * 1024; // before base64; the server takes 16 MiB a file in JSON, and so much is no gain

export type Batch = [path: string, content: Uint8Array][];

/**
 * Yield the files in their order, in batches that the server takes.
 *
 * A file larger than a batch comes alone; the caller sends a batch of one as a plain write, which has no size cap.
 */
export function* planBatches(files: Iterable<[string, Uint8Array]>): Generator<Batch, void> {
  let batch: Batch = [];
  let size = 0;
  for (const [path, content] of files) {
    if (batch.length > 0 && (batch.length === MAX_ROWS || size + content.length > MAX_BATCH_BYTES)) {
      yield batch;
      batch = [];
      size = 0;
    }
    batch.push([path, content]);
    size += content.length;
  }
  if (batch.length > 0) yield batch;
}
