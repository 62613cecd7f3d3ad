#ifndef LXCBOOT_USERNS_H
#define LXCBOOT_USERNS_H

// userns_open makes a user namespace whose ids are mapped as a line of uid_map says,
// and returns a descriptor of it, or a negative errno. Only a process can make one:
// that one shares this one's memory, because to copy it takes longer than a mount does,
// and has ended when it returns.
int userns_open(const char *map);

#endif
