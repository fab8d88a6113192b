"""The interface for programs: OpenAI's Realtime API, speech and transcriptions, on models of our own."""
