"""The server: an OpenAI-compatible front of one or several engines, for `amaru serve`.

Lives here: what comes over HTTP and goes back. Not here: how an answer is computed (`serve.engine`). It alone needs
fastapi, uvicorn and prometheus-client, so nothing else of amaru imports it but the verb.
"""
