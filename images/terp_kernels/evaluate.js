// Evaluates cells in Node's own REPL, without its terminal: `let` and `const` last, `await` works at the top level, the
// value of the last expression is shown. Cells come and answers go as lines of JSON on the file given as argument.
'use strict';

const net = require('node:net');
const repl = require('node:repl');
const util = require('node:util');
const readline = require('node:readline');
const { PassThrough } = require('node:stream');

const channel = new net.Socket({ fd: Number(process.argv[2]) });
const evaluator = repl.start({
  prompt: '', input: new PassThrough(), output: new PassThrough().resume(), useGlobal: true, breakEvalOnSigint: true,
  terminal: false,
});
let running = false;

// The evaluator gives what code throws to its domain, at once or from a timer, and not to the one who asked.
evaluator._domain.removeAllListeners('error');
evaluator._domain.on('error', (error) => {
  if (running) answer({ error: raised(error) });
  else console.error('Uncaught', error);
});

// For a cell that awaits. While code runs without a pause it is interrupted by the evaluator, which with a listener in its
// way would let the process end.
function interrupt() { if (running) evaluator.emit('SIGINT'); }
process.on('SIGINT', interrupt);
process.on('uncaughtException', (error) => console.error('Uncaught', error));
process.on('unhandledRejection', (error) => console.error('Uncaught (in promise)', error));

function plain(value) {
  return Array.isArray(value) || (value !== null && typeof value === 'object'
    && [Object.prototype, null].includes(Object.getPrototypeOf(value)));
}

function shown(value) {
  const data = { 'text/plain': util.inspect(value, { depth: 4, maxStringLength: 1 << 20 }) };
  if (plain(value)) {
    try { data['application/json'] = JSON.parse(JSON.stringify(value)); } catch { /* a cycle, a BigInt */ }
  }
  return data;
}

function raised(error) {
  const cause = error instanceof repl.Recoverable ? error.err : error;
  if (!util.types.isNativeError(cause)) {
    return { name: 'Uncaught', value: util.inspect(cause), stack: '' };
  }
  const interrupted = cause.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED';
  const stack = String(cause.stack).split('\n').filter((line) => !/\((node:|.*evaluate\.js)|at node:/.test(line));
  return { name: interrupted ? 'Interrupted' : cause.name, value: cause.message, stack: stack.join('\n') };
}

function answer(content) {
  if (!running) return;
  running = false;
  channel.write(JSON.stringify(content) + '\n');
}

readline.createInterface({ input: channel }).on('line', (line) => {
  running = true;
  process.removeListener('SIGINT', interrupt);
  try {
    evaluator.eval(JSON.parse(line).code + '\n', evaluator.context, 'cell', (error, value) => {
      try {
        if (error) answer({ error: raised(error) });
        else answer(value === undefined ? {} : { data: shown(value) });
      } catch (failure) { // of a getter or an inspector that the code defined
        answer({ error: raised(failure) });
      }
    });
  } catch (error) {
    answer({ error: raised(error) });
  }
  process.on('SIGINT', interrupt);
}).on('close', () => process.exit(0));
