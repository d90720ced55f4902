"""Client of the guest agent: its wire, and the bounds, deadlines and checks for all that a guest says."""
