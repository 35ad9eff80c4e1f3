"""Speech for speaking: texts, the codec's codes of their recordings, and which character each frame belongs to."""
