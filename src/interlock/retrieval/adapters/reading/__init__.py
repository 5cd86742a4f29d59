"""Documents read in processes of their own: `texts` turns bytes into text, `pool` bounds what that may cost."""
