"""What a server keeps of its promises while its workers are killed, stopped, slowed down and poisoned."""
