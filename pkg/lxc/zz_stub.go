package lxc

func CheckInit(root, init string) error { return nil }
