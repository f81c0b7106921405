"""An MCP client by the official Python SDK.

mcp_client.py MODE URL TOOL=ARGS...: lists the tools, makes the calls, and prints a line of JSON for
each. MODE is legacy (initialize, with a session) or a revision without sessions.
"""

import asyncio
import json
import sys

import mcp_types
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError


def say(**what):
    print(json.dumps(what), flush=True)


async def agree(_context, asked):
    say(asked=asked.message)
    return mcp_types.ElicitResult(action="accept", content={"agreed": True})


async def main(mode, url, *calls):
    async with Client(url, mode=mode, elicitation_callback=agree) as client:
        listed = await client.list_tools()
        say(tools=[tool.name for tool in listed.tools])
        for call in calls:
            tool, arguments = call.split("=", 1)
            try:
                result = await client.call_tool(tool, json.loads(arguments))
                say(tool=tool, failed=result.is_error, text=result.content[0].text)
            except MCPError as error:
                say(tool=tool, code=error.error.code, data=error.error.data)


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 30))
