"""Measures livegate, nginx and HAProxy side by side: cost per request, latency, memory."""
