module penalty

go 1.19
