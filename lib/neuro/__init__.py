"""The science: spiking networks, what drives them and what is seen in them; knows no runner."""
