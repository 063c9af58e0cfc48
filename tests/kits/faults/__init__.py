"""Tools that break an agent, and checks that account for every reading afterwards."""
