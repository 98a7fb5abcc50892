"""The bus: how a service reads the topics of others, behind one port."""
