"""An MCP server by the official Python SDK, over Streamable HTTP on loopback.

mcp_server.py LOG [json] [stateless]: prints {"listening": PORT}, and writes to LOG each call that
reached it, a line each.
"""

import json
import socket
import sys

import pydantic
import uvicorn
from mcp.server.mcpserver import Context, MCPServer

log, options = open(sys.argv[1], "a", buffering=1), sys.argv[2:]
server = MCPServer("tickets")


class Answer(pydantic.BaseModel):
    agreed: bool


@server.tool()
def search_tickets(query: str) -> str:
    """Searches tickets."""
    log.write("search_tickets\n")
    return f"nothing about {query}"


@server.tool()
def refund(amount: int) -> str:
    """Refunds."""
    log.write("refund\n")
    return f"refunded {amount}"


@server.tool()
def drop() -> str:
    """Drops all."""
    log.write("drop\n")
    return "dropped"


@server.tool()
async def ask_user(ctx: Context) -> str:
    """Asks the user."""
    answer = await ctx.elicit(message="May I?", schema=Answer)
    log.write(f"ask_user {answer.action}\n")
    return answer.action


listener = socket.create_server(("127.0.0.1", 0))
print(json.dumps({"listening": listener.getsockname()[1]}), flush=True)
app = server.streamable_http_app(
    json_response="json" in options, stateless_http="stateless" in options
)
uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none")).run(sockets=[listener])
