// An MCP server by the official TypeScript SDK, over Streamable HTTP on loopback.
//
// mcp_server.mjs LOG [json] [stateless]: prints {"listening": PORT}, and writes to LOG each call
// that reached it, a line each.

import { randomUUID } from "node:crypto";
import { appendFileSync } from "node:fs";
import { createServer } from "node:http";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { z } from "zod";

const [log, ...options] = process.argv.slice(2);
const stateless = options.includes("stateless");

function tickets() {
  const server = new McpServer({ name: "tickets", version: "1.0.0" });
  const tool = (name, inputSchema, answer) =>
    server.registerTool(name, { description: name, inputSchema }, async (args) => {
      const text = await answer(args);
      appendFileSync(log, `${name === "ask_user" ? `${name} ${text}` : name}\n`);
      return { content: [{ type: "text", text }] };
    });
  tool("search_tickets", { query: z.string() }, ({ query }) => `nothing about ${query}`);
  tool("refund", { amount: z.number() }, ({ amount }) => `refunded ${amount}`);
  tool("drop", {}, () => "dropped");
  tool("ask_user", {}, async () => {
    const asked = { message: "May I?", requestedSchema: { type: "object", properties: {} } };
    return (await server.server.elicitInput(asked)).action;
  });
  return server;
}

const sessions = new Map();
const http = createServer(async (request, response) => {
  let transport = sessions.get(request.headers["mcp-session-id"]);
  if (!transport) {
    transport = new StreamableHTTPServerTransport({
      sessionIdGenerator: stateless ? undefined : randomUUID,
      onsessioninitialized: (id) => sessions.set(id, transport),
      enableJsonResponse: options.includes("json"),
    });
    await tickets().connect(transport);
  }
  await transport.handleRequest(request, response);
});
http.listen(0, "127.0.0.1", () => {
  console.log(JSON.stringify({ listening: http.address().port }));
});
