// The npm packages lie under target/e2e, outside the directories that an ES module import searches.
import { createRequire } from "node:module";

export const require = createRequire(`${process.env.BERRY_E2E_HOME}/`);
