"""Where Ray keeps its insides; programs import the test tools all the same."""
