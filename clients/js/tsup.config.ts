import { defineConfig } from "tsup";

export default defineConfig({
  entry: ["src/index.ts"],
  format: ["esm", "cjs"],
  target: "es2022", // Node 18 and every browser that streams
  platform: "neutral",
  external: [/^node:/],
  removeNodeProtocol: false, // Deno knows no other names
  dts: { banner: '/// <reference lib="esnext.disposable" />' },
  splitting: true, // what needs Node is loaded when it is used
  sourcemap: true,
  clean: true,
});
