"""Sound in and out: files, the local microphone and loudspeaker."""
