/** The symbol of `await using`, also where the run time does not have it yet: what compilers fall back to. */
export const asyncDispose: typeof Symbol.asyncDispose = Symbol.asyncDispose ?? Symbol.for("Symbol.asyncDispose");

/** How Node prints an object. */
export const inspect: unique symbol = Symbol.for("nodejs.util.inspect.custom");
