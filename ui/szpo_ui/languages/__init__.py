"""What the pages of panelists say, in several languages."""
