// An MCP client by the official TypeScript SDK.
//
// mcp_client.mjs MODE URL TOOL=ARGS...: lists the tools, makes the calls, and prints a line of JSON
// for each. MODE is legacy: the SDK speaks with sessions alone.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { ElicitRequestSchema } from "@modelcontextprotocol/sdk/types.js";

const [, url, ...calls] = process.argv.slice(2);
const say = (what) => console.log(JSON.stringify(what));
setTimeout(() => process.exit(3), 30_000).unref();

const capabilities = { elicitation: {} };
const client = new Client({ name: "agent", version: "1.0.0" }, { capabilities });
client.setRequestHandler(ElicitRequestSchema, ({ params }) => {
  say({ asked: params.message });
  return { action: "accept", content: {} };
});
await client.connect(new StreamableHTTPClientTransport(new URL(url)));
const { tools } = await client.listTools();
say({ tools: tools.map((tool) => tool.name) });
for (const call of calls) {
  const at = call.indexOf("=");
  const tool = call.slice(0, at);
  try {
    const result = await client.callTool({ name: tool, arguments: JSON.parse(call.slice(at + 1)) });
    say({ tool, failed: result.isError ?? false, text: result.content[0].text });
  } catch (error) {
    say({ tool, code: error.code, data: error.data });
  }
}
await client.close();
