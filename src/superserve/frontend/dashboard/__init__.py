"""The live page: what the server does, second by second, and a form to ask its models something."""
