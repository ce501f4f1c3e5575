"""Pure functions turn evidence into a word and its reasons. They read no file, no clock and no device."""
